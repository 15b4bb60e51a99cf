package loadgen

import (
	"context"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/esh3artech/esh3ar"
)

// story builds a ledger, a line a call. Every message goes to recipient 7; ids follow from the numbers.
type story []Record

func idOf(client, seq uint32) esh3ar.ID {
	return esh3ar.ID{0: byte(client), 1: byte(seq), 2: byte(seq >> 8)}
}

func (s *story) accepted(client, seq uint32, sent, at int64) {
	*s = append(*s, Record{Kind: Accepted, Status: 202, Client: client, Recipient: 7, Seq: seq, ID: idOf(client, seq), Sent: sent, At: at})
}

func (s *story) ended(kind Kind, client, seq uint32) {
	*s = append(*s, Record{Kind: kind, Status: 503, Client: client, Recipient: 7, Seq: seq})
}

func (s *story) received(device, client, seq uint32, at int64) {
	*s = append(*s, Record{Kind: Received, Client: client, Recipient: 7, Seq: seq, Device: device, ID: idOf(client, seq), At: at})
}

func TestAccount(t *testing.T) {
	for _, tc := range []struct {
		name string
		tell func(s *story)
		want Verdict
		note string
	}{
		{"nothing", func(s *story) {}, Verdict{}, ""},
		{"all well", func(s *story) {
			s.accepted(1, 0, 10, 20)
			s.accepted(1, 1, 30, 40)
			s.accepted(2, 0, 10, 20)
			s.received(0, 1, 0, 50)
			s.received(0, 2, 0, 51)
			s.received(0, 1, 1, 52)
		}, Verdict{Accepted: 3, Received: 3}, ""},
		{"received before the 202 was read", func(s *story) {
			s.accepted(1, 0, 10, 20)
			s.accepted(1, 1, 30, 40)
			s.received(0, 1, 0, 15)
			s.received(0, 1, 1, 35)
		}, Verdict{Accepted: 2, Received: 2}, ""},
		{"lost", func(s *story) {
			s.accepted(1, 0, 10, 20)
			s.accepted(1, 1, 30, 40)
			s.received(0, 1, 1, 50)
		}, Verdict{Accepted: 2, Received: 1, Lost: 1}, ""},
		{"repeats, also across others", func(s *story) {
			s.accepted(1, 0, 10, 20)
			s.accepted(1, 1, 30, 40)
			s.received(0, 1, 0, 50)
			s.received(0, 1, 1, 51)
			s.received(0, 1, 0, 52)
			s.received(0, 1, 0, 53)
		}, Verdict{Accepted: 2, Received: 2, Repeated: 2}, ""},
		{"out of order", func(s *story) {
			s.accepted(1, 0, 10, 20)
			s.accepted(1, 1, 30, 40)
			s.received(0, 1, 1, 50)
			s.received(0, 1, 0, 51)
		}, Verdict{Accepted: 2, Received: 2, Disordered: 1}, "message 0 of client 1"},
		{"no order among messages sent at the same time", func(s *story) {
			s.accepted(1, 0, 10, 40)
			s.accepted(1, 1, 30, 35)
			s.received(0, 1, 1, 50)
			s.received(0, 1, 0, 51)
		}, Verdict{Accepted: 2, Received: 2}, ""},
		{"no order among clients", func(s *story) {
			s.accepted(1, 0, 10, 20)
			s.accepted(2, 0, 30, 40)
			s.received(0, 2, 0, 50)
			s.received(0, 1, 0, 51)
		}, Verdict{Accepted: 2, Received: 2}, ""},
		{"an overtaken message behind several", func(s *story) {
			for i := range uint32(4) {
				s.accepted(1, i, int64(100*i), int64(100*i+50))
			}
			for n, i := range []uint32{0, 2, 3, 1} {
				s.received(0, 1, i, int64(1000+n))
			}
		}, Verdict{Accepted: 4, Received: 4, Disordered: 1}, "after number 3"},
		{"sent again to a device that is ahead", func(s *story) {
			s.accepted(1, 0, 10, 20)
			s.accepted(1, 1, 30, 40)
			s.received(0, 1, 0, 50)
			s.received(1, 1, 1, 51)
			s.received(1, 1, 0, 52)
		}, Verdict{Accepted: 2, Received: 2}, ""},
		{"a device out of order behind another", func(s *story) {
			s.accepted(1, 0, 10, 20)
			s.accepted(1, 1, 30, 40)
			s.received(0, 1, 1, 50)
			s.received(1, 1, 1, 51)
			s.received(1, 1, 0, 52)
		}, Verdict{Accepted: 2, Received: 2, Disordered: 1}, "message 0 of client 1"},
		{"a device that is behind", func(s *story) {
			s.accepted(1, 0, 10, 20)
			s.accepted(1, 1, 30, 40)
			s.received(0, 1, 1, 50) // message 0 was canceled
			s.received(1, 1, 0, 51) // and was under way
			s.received(1, 1, 1, 52)
		}, Verdict{Accepted: 2, Received: 2}, ""},
		{"each device has its own order", func(s *story) {
			s.accepted(1, 0, 10, 20)
			s.accepted(1, 1, 30, 40)
			s.received(0, 1, 0, 50)
			s.received(0, 1, 1, 51)
			s.received(1, 1, 1, 52) // the second device came when the first had acknowledged message 0
		}, Verdict{Accepted: 2, Received: 2}, ""},
		{"refused and unknown", func(s *story) {
			s.ended(Refused, 1, 0)
			s.ended(Unknown, 1, 1)
			s.ended(Unknown, 1, 2)
			s.accepted(1, 3, 70, 80)
			s.received(0, 1, 3, 90)
			s.received(0, 1, 2, 95) // nobody promised anything about number 2
		}, Verdict{Accepted: 1, Received: 1, Refused: 1, Unknown: 2, Landed: 1}, ""},
		{"received though refused", func(s *story) {
			s.ended(Refused, 1, 0)
			s.received(0, 1, 0, 90)
		}, Verdict{Refused: 1, Contradictions: 1}, "refused with 503"},
		{"received but never sent", func(s *story) {
			s.received(0, 1, 0, 90)
		}, Verdict{Contradictions: 1}, "never sent"},
		{"received under another id", func(s *story) {
			s.accepted(1, 0, 10, 20)
			s.received(0, 1, 0, 30)
			(*s)[1].ID[9] = 1
		}, Verdict{Accepted: 1, Received: 1, Contradictions: 1}, "received as"},
		{"accepted under two ids", func(s *story) {
			s.accepted(1, 0, 10, 20)
			s.accepted(1, 0, 10, 25)
			(*s)[1].ID[9] = 1
			s.received(0, 1, 0, 30)
		}, Verdict{Accepted: 1, Received: 1, Contradictions: 1}, "accepted twice"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var s story
			tc.tell(&s)
			// Ledgers come from several processes in any order; a device's times tell its own.
			rand.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
			got := Account(s)
			if !strings.Contains(strings.Join(got.Notes, "\n"), tc.note) {
				t.Errorf("notes %q do not mention %q", got.Notes, tc.note)
			}
			if lost := len(got.Missing); lost != got.Lost {
				t.Errorf("%d missing, %d lost", lost, got.Lost)
			}
			if ok := tc.want.Lost+tc.want.Disordered+tc.want.Contradictions == 0; got.OK() != ok {
				t.Errorf("OK is %t", got.OK())
			}
			got.Notes, got.Missing = nil, nil
			if !reflect.DeepEqual(got, tc.want) {
				t.Errorf("verdict %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestResolveTellsWhatBecameOfTheMissing(t *testing.T) {
	becomes := map[esh3ar.ID]esh3ar.Status{
		idOf(1, 0): esh3ar.StatusExpired,
		idOf(1, 1): esh3ar.StatusQueued,
		idOf(1, 2): esh3ar.StatusDelivered,
		idOf(1, 4): esh3ar.StatusUndelivered,
	}
	var s story
	for i := range uint32(5) {
		s.accepted(1, i, int64(i*100), int64(i*100+50))
	}
	v := Account(s)
	err := v.Resolve(t.Context(), 100, func(_ context.Context, id esh3ar.ID) (esh3ar.Status, error) {
		if s, ok := becomes[id]; ok {
			return s, nil
		}
		return 0, esh3ar.Errorf(esh3ar.KindNotFound, "message_not_found", "no such message")
	})
	if err != nil {
		t.Fatal(err)
	}
	if v.Lost != 3 || v.Ended != 2 || v.Waiting != 1 || len(v.Missing) != 3 {
		t.Errorf("lost %d, ended %d, waiting %d, missing %d; want 3, 2, 1, 3", v.Lost, v.Ended, v.Waiting, len(v.Missing))
	}
	notes := strings.Join(v.Notes, "\n")
	for _, want := range []string{"is unknown now", "said to be delivered, but no device", "still queued"} {
		if !strings.Contains(notes, want) {
			t.Errorf("notes %q do not say %q", notes, want)
		}
	}
	const line = "accepted 5, received 0, repeated 0, out of order 0, lost 3, of these still waiting 1, ended undelivered 2"
	if got := v.String(); got != line {
		t.Errorf("verdict %q, want %q", got, line)
	}
	down := errors.New("down")
	err = v.Resolve(t.Context(), 1, func(context.Context, esh3ar.ID) (esh3ar.Status, error) { return 0, down })
	if !errors.Is(err, down) {
		t.Errorf("error %v, want the server's", err)
	}
}

func BenchmarkAccount(b *testing.B) {
	var s story
	const clients, each = 100, 100
	for c := range uint32(clients) {
		for i := range uint32(each) {
			s.accepted(c, i, int64(i*100), int64(i*100+50))
			s.received(0, c, i, int64(i*100+60))
		}
	}
	rand.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
	records := make([]Record, len(s))
	b.ReportAllocs()
	for b.Loop() {
		copy(records, s)
		if v := Account(records); !v.OK() {
			b.Fatal(v.Notes)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(s)), "ns/record")
}
