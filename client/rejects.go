package client

import (
	"context"
	"iter"
	"net/url"
	"time"
)

// Reject is a raw dead letter: a record that the server cannot read, or of a message that its store refused
// for good.
type Reject struct {
	Number int64     `json:"number"`
	At     time.Time `json:"at"`
	Shard  int       `json:"shard"`
	Tier   string    `json:"tier"`
	// Reason is one word, such as undecodable or refused_by_store; Detail is what was said.
	Reason string `json:"reason"`
	Detail string `json:"detail,omitempty"`
	// MessageID and Client are those of the record's message, "" if there is none.
	MessageID string `json:"message_id,omitempty"`
	Client    string `json:"client,omitempty"`
	// Record is the record as it is in the journal.
	Record []byte `json:"record"`
}

// Rejects iterates over the raw dead letters, oldest first. An error ends the iteration: it comes last, with a
// zero Reject.
func (a *Admin) Rejects(ctx context.Context) iter.Seq2[Reject, error] {
	type page struct {
		Rejects []Reject `json:"rejects"`
		next
	}
	return pages(ctx, a.c, "the raw dead letters", "/v1/admin/rejects", url.Values{}, func(p *page) ([]Reject, string) { return p.Rejects, p.Next })
}
