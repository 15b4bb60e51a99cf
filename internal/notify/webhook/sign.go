package webhook

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"time"

	"github.com/esh3artech/esh3ar/internal/store"
)

// secretPrefix begins a secret as it is shown, so that scanners and people recognise one.
const secretPrefix = "whsec_"

// newSecret returns a fresh secret of 256 bits.
func newSecret() []byte {
	b := make([]byte, 32)
	rand.Read(b) // never fails since Go 1.24
	return b
}

// shown is a secret as its client gets it.
func shown(secret []byte) string { return secretPrefix + base64.StdEncoding.EncodeToString(secret) }

// sign sets the header fields of Standard Webhooks. While a secret is being rotated there are two
// signatures, of the new secret and of the old.
func sign(h http.Header, hook *store.Webhook, id string, at time.Time, body []byte) {
	stamp := strconv.FormatInt(at.Unix(), 10)
	signatures := signature(hook.Secret, id, stamp, body)
	if at.Before(hook.OldUntil) && len(hook.OldSecret) > 0 {
		signatures += " " + signature(hook.OldSecret, id, stamp, body)
	}
	h.Set("webhook-id", id)
	h.Set("webhook-timestamp", stamp)
	h.Set("webhook-signature", signatures)
}

func signature(secret []byte, id, stamp string, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(id + "." + stamp + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
