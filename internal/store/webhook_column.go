package store

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar"
)

// EncodeStatuses returns statuses as backends store them: their names, separated by commas.
func EncodeStatuses(list []esh3ar.Status) string {
	names := make([]string, len(list))
	for i, s := range list {
		names[i] = s.String()
	}
	return strings.Join(names, ",")
}

// DecodeStatuses reads what EncodeStatuses wrote.
func DecodeStatuses(s string) ([]esh3ar.Status, error) {
	if s == "" {
		return nil, nil
	}
	var list []esh3ar.Status
	for name := range strings.SplitSeq(s, ",") {
		status, err := esh3ar.ParseStatus(name)
		if err != nil {
			return nil, fmt.Errorf("store: statuses: %w", err)
		}
		list = append(list, status)
	}
	return list, nil
}

// eventKeySize is the size of an encoded EventKey: the message's id and the status_seq, big-endian.
const eventKeySize = len(esh3ar.ID{}) + 4

// EncodeEventKeys returns keys as backends store them, one behind the other.
func EncodeEventKeys(keys []EventKey) []byte {
	b := make([]byte, 0, len(keys)*eventKeySize)
	for i := range keys {
		b = append(b, keys[i].Message[:]...)
		b = binary.BigEndian.AppendUint32(b, keys[i].Seq)
	}
	return b
}

// DecodeEventKeys reads what EncodeEventKeys wrote.
func DecodeEventKeys(b []byte) ([]EventKey, error) {
	if len(b)%eventKeySize != 0 {
		return nil, fmt.Errorf("store: event keys of %d bytes", len(b))
	}
	var keys []EventKey
	for ; len(b) > 0; b = b[eventKeySize:] {
		var k EventKey
		copy(k.Message[:], b)
		k.Seq = binary.BigEndian.Uint32(b[len(k.Message):])
		keys = append(keys, k)
	}
	return keys, nil
}

// WebhookColumns are the columns of the table webhook that ScanWebhook reads.
const WebhookColumns = `id, client, url, description, statuses, format, batch_max, secret, old_secret, old_until,
	created_at, updated_at, disabled_at, disabled_reason, version, epoch, cursor, failing_since, resume_at, succeeded_at, lost_at,
	(SELECT count(*) FROM webhook_parked WHERE webhook_parked.webhook = webhook.id)`

// ScanWebhook reads a webhook by a row's method Scan.
func ScanWebhook(scan func(...any) error) (h Webhook, err error) {
	var statuses string
	if err := scan(&h.ID, &h.Client, &h.URL, &h.Description, &statuses, &h.Format, &h.BatchMax, &h.Secret, &h.OldSecret, (*Instant)(&h.OldUntil),
		(*Instant)(&h.CreatedAt), (*Instant)(&h.UpdatedAt), (*Instant)(&h.DisabledAt), &h.DisabledReason, &h.Version, &h.Epoch, &h.Cursor,
		(*Instant)(&h.FailingSince), (*Instant)(&h.ResumeAt), (*Instant)(&h.SucceededAt), (*Instant)(&h.LostAt), &h.Parked,
	); err != nil {
		return h, err
	}
	h.Statuses, err = DecodeStatuses(statuses)
	return h, err
}

// DeliveryColumns are the columns of the table webhook_delivery that ScanDelivery reads.
const DeliveryColumns = `number, at, request_id, events, count, attempt, outcome, status_code, duration, error, response`

// ScanDelivery reads what came of a request by a row's method Scan.
func ScanDelivery(scan func(...any) error) (d WebhookDelivery, err error) {
	var took int64
	var events []byte
	if err := scan(&d.Number, (*Instant)(&d.At), &d.RequestID, &events, &d.Count, &d.Attempt, &d.Outcome, &d.StatusCode, &took, &d.Error, &d.Response); err != nil {
		return d, err
	}
	d.Duration = time.Duration(took) * time.Microsecond
	d.Events, err = DecodeEventKeys(events)
	return d, err
}
