package loadgen

import (
	"encoding/json"
	"net/http"
	"time"
)

// Bare returns the handler that accepting is measured against: it decodes the body of a message and
// answers 202. It checks nothing, keeps nothing and promises nothing.
func Bare() http.Handler {
	type message struct {
		To       string            `json:"to"`
		Content  string            `json:"content"`
		Data     json.RawMessage   `json:"data"`
		Type     string            `json:"type"`
		Metadata map[string]string `json:"metadata"`
		TTL      int64             `json:"ttl"`
		SendAt   time.Time         `json:"send_at"`
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m message
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	})
}
