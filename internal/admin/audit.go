package admin

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/esh3artech/esh3ar/internal/store"
)

// entry is an entry of the audit log as the API shows it.
type entry struct {
	Number  int64           `json:"number"`
	At      stamp           `json:"at"`
	Actor   string          `json:"actor"`
	Address string          `json:"address,omitempty"`
	Action  string          `json:"action"`
	Client  string          `json:"client,omitempty"`
	Object  string          `json:"object,omitempty"`
	Detail  json.RawMessage `json:"detail,omitempty"`
}

// auditCursorKind begins a cursor of the audit log, so that others are told from it.
const auditCursorKind = "a1:"

// listAudit serves GET /v1/admin/audit, newest first.
func (a *API) listAudit(w http.ResponseWriter, r *http.Request) error {
	q := store.AuditQuery{Limit: defaultPage}
	text := func(s *string) func(string) error {
		return func(given string) error {
			*s = given
			return nil
		}
	}
	if err := parameters(r, map[string]func(string) error{
		"client": text(&q.Client), "actor": text(&q.Actor), "action": text(&q.Action),
		"from": instant(&q.From), "until": instant(&q.Until), "limit": limit(&q.Limit),
		"cursor": func(s string) (err error) {
			q.Before, err = auditCursor(s)
			return err
		},
	}); err != nil {
		return err
	}
	most := q.Limit
	q.Limit++
	ctx, cancel := bounded(r)
	defer cancel()
	list, err := a.store.Audited(ctx, q)
	if err != nil {
		return readFault(err)
	}
	page := struct {
		Entries []entry `json:"entries"`
		Next    string  `json:"next_cursor,omitempty"`
	}{Entries: make([]entry, 0, len(list))}
	for i, e := range list {
		if i == most {
			last := strconv.FormatInt(list[i-1].Number, 10)
			page.Next = base64.RawURLEncoding.EncodeToString([]byte(auditCursorKind + last))
			break
		}
		page.Entries = append(page.Entries, entry{
			Number: e.Number, At: stamp{e.At}, Actor: e.Actor, Address: e.Address, Action: e.Action, Client: e.Client, Object: e.Object,
			Detail: e.Detail,
		})
	}
	return answer(w, http.StatusOK, page)
}

func auditCursor(s string) (before int64, err error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	number, ok := strings.CutPrefix(string(raw), auditCursorKind)
	if err != nil || !ok {
		return 0, badCursor()
	}
	if before, err = strconv.ParseInt(number, 10, 64); err != nil || before < 1 {
		return 0, badCursor()
	}
	return before, nil
}
