package ingest

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
)

// idempotencyLookup bounds the look-up of an idempotency key, so that a store that hangs does not stop
// the accepting.
const idempotencyLookup = 250 * time.Millisecond

// call is what one POST /v1/messages works with. It is used again and again.
type call struct {
	decoder
	message esh3ar.Message
	body    []byte
	out     []byte // the record, then the answer
}

// accept serves POST /v1/messages where net/http has read the request. Front does so for most.
func (a *API) accept(w http.ResponseWriter, r *http.Request) error {
	client, err := a.keys.caller(r, esh3ar.ScopeSend)
	if err != nil {
		return err
	}
	if err := checkContentType(r.Header); err != nil {
		return err
	}
	c := a.calls.Get().(*call)
	defer a.calls.Put(c)
	if c.body, err = readBody(r, c.body[:0], esh3ar.MaxMessageBytes); err != nil {
		return err
	}
	// A client that hangs up does not take back what it sent, so the append goes on without it.
	at, err := a.submit(context.WithoutCancel(r.Context()), c, client, r.Header)
	if err != nil {
		return err
	}
	a.answerAccepted(w, c, at)
	return nil
}

// acceptance is what the answer to an accepted message tells.
type acceptance struct {
	id esh3ar.ID
	to string
	at time.Time
	// standing is how the client stands with its limits. A repetition does not tell it, for it costs nothing.
	standing standing
}

// submit reads the message in c.body and makes it durable, unless it is a repetition. Its error is one
// that refuse can tell.
func (a *API) submit(ctx context.Context, c *call, client *grant, h http.Header) (acceptance, error) {
	if !a.load.enter(client.Tier) {
		return acceptance{}, a.overloaded(client.Tier)
	}
	defer a.load.leave()
	start := time.Now()
	a.company.came(start)
	now := a.stamp()
	if err := c.read(c.body, now, false); err != nil {
		return acceptance{}, err
	}
	var err error
	if c.key, err = headerKey(h); err != nil {
		return acceptance{}, err
	}
	m := &c.message
	shard, first, err := a.identify(ctx, client, &c.decoder, m, now)
	if err != nil {
		return acceptance{}, err
	}
	if first.ID != (esh3ar.ID{}) {
		a.metrics.repeated.Inc()
		return acceptance{id: first.ID, to: first.To, at: first.AcceptedAt}, nil
	}
	charged, err := a.admit(&client.Client, 1, now, a.load.pause)
	if err != nil {
		return acceptance{}, err
	}
	m.TraceParent = traceParent(h)
	c.out = record.AppendMessage(c.out[:0], m)
	// How long it may take is the journal's to bound.
	err = a.journal.Append(ctx, journal.Partition{Shard: shard, Tier: uint8(m.Tier)}, c.out)
	took := time.Since(start) - charged.wait
	a.load.ended(1, took)
	if err != nil {
		err := appendError(err)
		if err.Kind != esh3ar.KindOutcomeUnknown {
			charged.refund(1)
		}
		return acceptance{}, err
	}
	a.remember(m)
	a.metrics.accepted[m.Tier].Inc()
	a.metrics.accepting.Observe(took.Seconds())
	return acceptance{m.ID, m.To, m.AcceptedAt, charged.standing}, nil
}

// InFlight returns how many messages are being made durable at one time, batches aside. By Little's law
// that is their rate times their latency, so it rises when the machine cannot keep up.
func (a *API) InFlight() int64 { return a.load.calls.Load() }

// Load returns how many messages are under way to the journal, and how many may be before more of the highest
// tier are refused.
func (a *API) Load() (inFlight, limit int64) {
	for t := range a.load.limits {
		limit = max(limit, a.load.limits[t].Load())
	}
	return a.load.inFlight(), limit
}

// stamp returns the time of acceptance, to the microsecond that is kept.
func (a *API) stamp() time.Time { return a.now().UTC().Truncate(time.Microsecond) }

// identify fills m with the draft that was read, the client and an identifier. If the message repeats
// an earlier one, first says which and m is not to be appended; otherwise first is zero. Its error is
// of KindMismatch, or of KindForbidden for a recipient that is not the client's.
//
// A message with a key is looked up after its AcceptedAt was taken. So of two copies one finds the
// other, or both were accepted before either was stored: whoever sees a record with a key in the
// journal can tell a copy by looking among the messages that were stored at or after the record's
// AcceptedAt. Where the look-up fails the message is accepted all the same and says so (Unchecked):
// the owner of the shard looks up its id, which equal copies agree on.
func (a *API) identify(ctx context.Context, client *grant, d *decoder, m *esh3ar.Message, now time.Time) (shard uint16, first store.Remembered, err error) {
	d.fill(m, now)
	if err := client.mayReach(m.To); err != nil {
		return 0, first, err
	}
	m.Client, m.From, m.Tier = client.ID, client.Name, client.Tier
	shard = esh3ar.ShardOf(m.To, a.shards)
	if m.Key == "" {
		m.ID = a.ids.New(now, shard)
		return shard, first, nil
	}
	m.Digest = d.digest()
	first, known, checked := a.firstUse(ctx, client.ID, m.Key, now)
	m.Unchecked = !checked
	switch {
	case !known:
		m.ID = esh3ar.DeriveID(client.ID, m.Key, m.Digest, now, a.window, shard)
		return shard, store.Remembered{}, nil
	case first.Digest != m.Digest:
		return 0, store.Remembered{}, esh3ar.Errorf(esh3ar.KindMismatch, "idempotency_key_reused",
			"this Idempotency-Key was used for another message, %s; use a new key for each message", first.ID)
	}
	return shard, first, nil
}

// firstUse returns what a key was first used for within the window, and whether that could be found
// out.
func (a *API) firstUse(ctx context.Context, client, key string, now time.Time) (first store.Remembered, known, checked bool) {
	if u, ok := a.recent.get(hashKey(client, key)); ok && now.Sub(u.AcceptedAt) < a.window {
		return u, true, true
	}
	ctx, cancel := context.WithTimeout(ctx, idempotencyLookup)
	defer cancel()
	u, err := a.messages.Idempotent(ctx, client, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		a.metrics.lookupFailed.Inc()
		return u, false, false
	}
	return u, err == nil, true
}

// remember notes the use of a key by a message that is durable.
func (a *API) remember(m *esh3ar.Message) {
	if m.Key != "" {
		a.recent.put(hashKey(m.Client, m.Key), store.Remembered{ID: m.ID, Digest: m.Digest, To: m.To, AcceptedAt: m.AcceptedAt})
	}
}

// answerAccepted writes the 202 of one message. The server adds length and date.
func (a *API) answerAccepted(w http.ResponseWriter, c *call, r acceptance) {
	location := r.id.Append(append(c.out[:0], "/v1/messages/"...))
	h := w.Header()
	h["Content-Type"] = a.jsonType
	h["Location"] = []string{string(location)}
	r.standing.tell(h)
	w.WriteHeader(http.StatusAccepted)
	c.out = appendAccepted(location[:0], r)
	_, _ = w.Write(c.out) // fails only if the client has gone
}

// appendAccepted appends the body of a 202.
func appendAccepted(dst []byte, r acceptance) []byte {
	dst = appendReceipt(append(dst, '{'), r.id, `,"status":"accepted"`, r.to, r.at)
	return append(dst, "}\n"...)
}

// appendReceipt appends the members that tell of an accepted message. Extra is JSON that goes behind
// the id.
func appendReceipt(dst []byte, id esh3ar.ID, extra, to string, at time.Time) []byte {
	dst = append(dst, `"id":"`...)
	dst = append(id.Append(dst), '"')
	dst = append(dst, extra...)
	dst = append(dst, `,"to":`...)
	dst = appendString(dst, to)
	dst = append(dst, `,"accepted_at":`...)
	return appendTime(dst, at)
}

// readBody appends the body to buf, which it returns in any case. Its errors are of KindTooLarge and
// KindInvalid, or a problem.
func readBody(r *http.Request, buf []byte, most int) ([]byte, error) {
	size := int(r.ContentLength)
	if r.ContentLength > int64(most) {
		return buf, tooLarge(most)
	}
	if size < 0 {
		size = 512 // unknown: chunked
	}
	if cap(buf) < size {
		buf = make([]byte, 0, max(size, 1024))
	}
	if r.ContentLength >= 0 {
		// All at once, with no further read for the end.
		buf = buf[:size]
		_, err := io.ReadFull(r.Body, buf)
		return buf, bodyError(err)
	}
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := r.Body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case len(buf) > most:
			return buf, tooLarge(most)
		case errors.Is(err, io.EOF):
			return buf, nil
		case err != nil:
			return buf, bodyError(err)
		}
	}
}

func tooLarge(most int) error {
	return esh3ar.Errorf(esh3ar.KindTooLarge, "body_too_large", "the body has at most %d bytes", most)
}

// incompleteCode is the code of a body that did not come whole, whoever read it.
const incompleteCode = "body_incomplete"

// bodyError is how a body that could not be read is told, if anybody is left to hear it.
func bodyError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return bodyTimeout()
	}
	return esh3ar.Errorf(esh3ar.KindInvalid, incompleteCode, "the body ended before its announced length").Because(err)
}

// checkContentType lets JSON in UTF-8 pass, and bodies that do not say what they are.
func checkContentType(h http.Header) error {
	fields := h["Content-Type"]
	if len(fields) == 0 || len(fields) == 1 && fields[0] == "application/json" {
		return nil
	}
	kind, params, err := mime.ParseMediaType(fields[0])
	charset, named := params["charset"]
	switch {
	case err != nil, len(fields) > 1,
		named && !strings.EqualFold(charset, "utf-8") && !strings.EqualFold(charset, "us-ascii"),
		kind != "application/json" && kind != "text/json" && !strings.HasSuffix(kind, "+json"):
		return unsupportedMediaType()
	}
	return nil
}

// headerKey returns the Idempotency-Key of a request, "" without one. It may be quoted, as a
// structured field is, or bare.
func headerKey(h http.Header) (string, error) {
	fields := h["Idempotency-Key"]
	if len(fields) == 0 {
		return "", nil
	}
	if len(fields) > 1 {
		return "", esh3ar.Errorf(esh3ar.KindInvalid, "idempotency_key_twice", "the Idempotency-Key header is given twice")
	}
	key := fields[0]
	if n := len(key); n > 2 && key[0] == '"' && key[n-1] == '"' && !strings.ContainsAny(key[1:n-1], `"\`) {
		key = key[1 : n-1]
	}
	return idempotencyKey(key)
}

// traceParent returns the W3C traceparent of a request, as version 00, or "" if there is none that is
// well-formed.
func traceParent(h http.Header) string {
	fields := h["Traceparent"]
	if len(fields) != 1 {
		return ""
	}
	const size = len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	t := fields[0]
	if len(t) < size || t[2] != '-' || t[35] != '-' || t[52] != '-' ||
		!lowerHex(t[:2]) || !lowerHex(t[3:35]) || !lowerHex(t[36:52]) || !lowerHex(t[53:size]) {
		return ""
	}
	switch version := t[:2]; {
	case version == "ff", version == "00" && len(t) > size, len(t) > size && t[size] != '-':
		return ""
	case strings.Trim(t[3:35], "0") == "" || strings.Trim(t[36:52], "0") == "":
		return ""
	case version != "00":
		return "00" + t[2:size]
	}
	return t
}

func lowerHex(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
