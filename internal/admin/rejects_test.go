package admin

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
)

func TestRejects(t *testing.T) {
	w := newWorld(t)
	type page struct {
		Rejects []struct {
			Number  int64
			At      string
			Shard   int
			Tier    string
			Reason  string
			Detail  string
			Message string `json:"message_id"`
			Client  string
			Record  []byte
		}
		Next string `json:"next_cursor"`
	}
	var none page
	if a := w.want(http.StatusOK, &none, http.MethodGet, "/v1/admin/rejects", ""); a.body != `{"rejects":[]}` {
		t.Errorf("none: %s", a.body)
	}
	claim, err := w.store.Claim(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	m := esh3ar.Message{ID: esh3ar.ID{1, 15: 1}, Client: "shop", To: "rana", Content: "poison", AcceptedAt: w.now}
	b := &store.Batch{Shard: 1, Epoch: claim.Epoch, At: w.now, Rejects: []store.Reject{
		{Tier: esh3ar.TierBronze, Ord: 7, Record: record.AppendMessage(nil, &m), Reason: esh3ar.ReasonRefusedByStore, Detail: "why\xff"},
	}}
	for i := range 24 {
		b.Rejects = append(b.Rejects, store.Reject{Ord: uint64(i), Record: []byte{0xff, byte(i)}, Reason: esh3ar.ReasonUndecodable})
	}
	// Of long ones a page has few.
	for i := range 9 {
		b.Rejects = append(b.Rejects, store.Reject{Ord: uint64(100 + i), Record: bytes.Repeat([]byte{0xff, byte(i)}, 500_000), Reason: esh3ar.ReasonUndecodable})
	}
	if err := w.store.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	var found int
	var sizes []string
	for query := "?limit=12"; ; {
		var p page
		w.want(http.StatusOK, &p, http.MethodGet, "/v1/admin/rejects"+query, "")
		sizes = append(sizes, strconv.Itoa(len(p.Rejects)))
		for _, r := range p.Rejects {
			want := b.Rejects[found]
			if r.Number != int64(found+1) || r.Shard != 1 || r.Tier != want.Tier.String() || r.Reason != string(want.Reason) ||
				!bytes.Equal(r.Record, want.Record) || r.At != "2026-03-01T12:00:00.000000Z" {
				t.Errorf("raw dead letter %d: %+v", found, r)
			}
			if first := found == 0; (r.Message == m.ID.String() && r.Client == "shop" && r.Detail == "why\ufffd") != first {
				t.Errorf("raw dead letter %d is of message %q of %q: %q", found, r.Message, r.Client, r.Detail)
			}
			found++
		}
		if p.Next == "" {
			break
		}
		query = "?limit=12&cursor=" + p.Next
	}
	if got := strings.Join(sizes, " "); found != len(b.Rejects) || got != "12 12 6 4" {
		t.Errorf("%d raw dead letters on pages of %s", found, got)
	}
	w.wantFaults(http.MethodGet, "/v1/admin/rejects?limit=0&cursor=x&from=y", "", "cursor bad_cursor", "from unknown_parameter", "limit bad_limit")
}
