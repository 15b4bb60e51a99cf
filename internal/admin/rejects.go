package admin

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/record"
)

// reject is a raw dead letter as the API shows it: a journal record that cannot be decoded, or whose message
// the store refused for good.
type reject struct {
	Number int64  `json:"number"`
	At     stamp  `json:"at"`
	Shard  uint16 `json:"shard"`
	Tier   string `json:"tier"`
	Reason string `json:"reason"`
	Detail string `json:"detail,omitempty"`
	// Message and Client are there if the record can be decoded.
	Message string `json:"message_id,omitempty"`
	Client  string `json:"client,omitempty"`
	Record  []byte `json:"record"`
}

// rejectCursorKind begins a cursor of raw dead letters.
const rejectCursorKind = "r1:"

const (
	rejectStep  = 10      // raw dead letters of one question to the store: a record may have a megabyte
	rejectBytes = 4 << 20 // of records, at which a page ends
)

// listRejects serves GET /v1/admin/rejects, oldest first.
func (a *API) listRejects(w http.ResponseWriter, r *http.Request) error {
	most, after := defaultPage, int64(0)
	if err := parameters(r, map[string]func(string) error{
		"limit": limit(&most),
		"cursor": func(s string) (err error) {
			after, err = rejectCursor(s)
			return err
		},
	}); err != nil {
		return err
	}
	ctx, cancel := bounded(r)
	defer cancel()
	page := struct {
		Rejects []reject `json:"rejects"`
		Next    string   `json:"next_cursor,omitempty"`
	}{Rejects: []reject{}}
	for size := 0; ; {
		list, err := a.store.Rejected(ctx, after, rejectStep)
		if err != nil {
			return readFault(err)
		}
		for i := range list {
			if len(page.Rejects) == most || size >= rejectBytes {
				last := strconv.FormatInt(after, 10)
				page.Next = base64.RawURLEncoding.EncodeToString([]byte(rejectCursorKind + last))
				return answer(w, http.StatusOK, page)
			}
			one := &list[i]
			shown := reject{
				Number: one.Number, At: stamp{one.At}, Shard: one.Shard, Tier: one.Tier.String(),
				Reason: string(one.Reason), Detail: strings.ToValidUTF8(one.Detail, "\ufffd"), Record: one.Record,
			}
			var m esh3ar.Message
			if record.DecodeMessage(one.Record, &m) == nil {
				shown.Message, shown.Client = m.ID.String(), m.Client
			}
			page.Rejects = append(page.Rejects, shown)
			size += len(one.Record)
			after = one.Number
		}
		if len(list) < rejectStep {
			return answer(w, http.StatusOK, page)
		}
	}
}

func rejectCursor(s string) (after int64, err error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	number, ok := strings.CutPrefix(string(raw), rejectCursorKind)
	if err != nil || !ok {
		return 0, badCursor()
	}
	if after, err = strconv.ParseInt(number, 10, 64); err != nil || after < 1 {
		return 0, badCursor()
	}
	return after, nil
}
