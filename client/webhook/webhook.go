// Package webhook is for receivers of Esh3ar's webhooks: it makes sure that a request came from the platform,
// unchanged and lately, and reads its events. Requests are signed as Standard Webhooks has it.
//
//	http.HandleFunc("POST /hooks/esh3ar", func(w http.ResponseWriter, r *http.Request) {
//		events, err := webhook.Read(r, secret)
//		if err != nil {
//			http.Error(w, "not verified", http.StatusBadRequest)
//			return
//		}
//		…
//	})
package webhook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar/client"
)

// Tolerance is how far the time of a request may be from now. An older one may be a copy that somebody else
// has kept.
const Tolerance = 5 * time.Minute

// TypeTest is the type of the event that a test of a webhook posts; it is about no message.
const TypeTest = "webhook.test"

// MaxBody is how long a body may be for Read, in bytes: more than any that the platform sends.
const MaxBody = 4 << 20

// The errors of Verify.
var (
	// ErrHeader means that a header field is missing or is none that Standard Webhooks knows.
	ErrHeader = errors.New("webhook: the header has no id, timestamp or signature")
	// ErrStale means that the request is too old or from the future: a copy, or a clock that is wrong.
	ErrStale = errors.New("webhook: the timestamp is not of the last minutes")
	// ErrSignature means that no signature was made with one of the secrets over this body.
	ErrSignature = errors.New("webhook: no signature fits")
)

// Verify returns nil if the request with that header and body was signed with one of the secrets and is no
// more than Tolerance away from now. Give two secrets while one is being rotated. The body must be as it came,
// to the byte. Comparisons take the same time whatever they find.
//
// Its errors are ErrHeader, ErrStale, ErrSignature, or about a secret that is none.
func Verify(header http.Header, body []byte, secrets ...string) error {
	return verify(header, body, time.Now(), secrets)
}

func verify(header http.Header, body []byte, now time.Time, secrets []string) error {
	if len(secrets) == 0 {
		return errors.New("webhook: no secret was given")
	}
	id, stamp, given := header.Get("webhook-id"), header.Get("webhook-timestamp"), header.Get("webhook-signature")
	if id == "" || stamp == "" || given == "" {
		return ErrHeader
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return ErrHeader
	}
	if age := now.Sub(time.Unix(seconds, 0)); age > Tolerance || age < -Tolerance {
		return ErrStale
	}
	fits := false
	for _, secret := range secrets {
		key, err := decode(secret)
		if err != nil {
			return err
		}
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + stamp + "."))
		mac.Write(body)
		want := mac.Sum(nil)
		for one := range strings.SplitSeq(given, " ") {
			version, encoded, _ := strings.Cut(one, ",")
			signature, err := base64.StdEncoding.DecodeString(encoded)
			if version == "v1" && err == nil && hmac.Equal(signature, want) {
				fits = true
			}
		}
	}
	if !fits {
		return ErrSignature
	}
	return nil
}

// decode reads a secret.
func decode(secret string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil || len(key) == 0 {
		return nil, errors.New("webhook: the secret is not of the form whsec_…; give it as it was shown")
	}
	return key, nil
}

// Events reads the events of a body that was verified: one, or those of a batch.
//
// In a webhook an event's ID is not a cursor. It is the same whenever the event comes again.
func Events(body []byte) ([]client.Event, error) {
	var events []client.Event
	var err error
	if bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("[")) {
		err = json.Unmarshal(body, &events)
	} else {
		events = make([]client.Event, 1)
		err = json.Unmarshal(body, &events[0])
	}
	if err != nil {
		return nil, fmt.Errorf("webhook: the body is not events: %w", err)
	}
	return events, nil
}

// Read reads a request, verifies it and returns its events. Its errors are those of Verify and Events, and
// those of reading; the answer to each is a status of 400.
//
// Answer with a status of 2xx when the events are safe with you, and within 15 seconds: what takes longer is
// better done afterwards. Any other answer makes them come again.
func Read(r *http.Request, secrets ...string) ([]client.Event, error) {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, MaxBody))
	if err != nil {
		return nil, fmt.Errorf("webhook: reading the body: %w", err)
	}
	if err := Verify(r.Header, body, secrets...); err != nil {
		return nil, err
	}
	return Events(body)
}
