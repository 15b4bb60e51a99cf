package balance

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/esh3artech/esh3ar/internal/balance/picker"
)

// affinityOf returns what must meet at one node: the requests of one caller to a hub, where negotiation, connection
// and long polls belong together. A caller is known by the subject of its token, because some clients get a new token for
// each request; a token that tells none stands for itself.
func affinityOf(r *http.Request) uint64 {
	if !strings.HasPrefix(path.Clean(r.URL.Path), "/hubs/") {
		return 0
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if token == "" {
		q, err := url.ParseQuery(r.URL.RawQuery)
		if token = q.Get("access_token"); err != nil || token == "" {
			return 0
		}
	}
	if subject := subjectOf(token); subject != "" {
		return picker.Affinity(subject)
	}
	return picker.Affinity(token)
}

// maxClaims bounds how much of a token is read.
const maxClaims = 8 << 10

// subjectOf returns the subject of a JWT, "" if it has none. Its signature is the node's to check: a subject that
// somebody made up leads him to one node instead of another.
func subjectOf(token string) string {
	_, rest, _ := strings.Cut(token, ".")
	claims, _, signed := strings.Cut(rest, ".")
	if !signed || len(claims) > maxClaims {
		return ""
	}
	raw, err := base64.RawURLEncoding.DecodeString(claims)
	if err != nil {
		return ""
	}
	var c struct {
		Subject string `json:"sub"`
	}
	if json.Unmarshal(raw, &c) != nil {
		return ""
	}
	return c.Subject
}
