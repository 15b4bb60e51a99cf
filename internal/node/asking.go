package node

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/dispatch"
	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
)

const (
	askSubject = "ask"
	askTime    = 5 * time.Second
)

// question is what one node asks the owner of a message's shard to do.
type question struct {
	Do     string    `json:"do"` // cancel, replay or discard
	Client string    `json:"client"`
	ID     esh3ar.ID `json:"id"`
	Why    string    `json:"why,omitempty"`
}

// answer is what became of it: it was done if there is no code.
type answer struct {
	Kind       esh3ar.Kind   `json:"kind,omitempty"`
	Code       string        `json:"code,omitempty"`
	Message    string        `json:"message,omitempty"`
	RetryAfter time.Duration `json:"retry_after,omitempty"`

	// Row is what was done to, as it is then, so that whoever asked needs no store. A node of an older version does not tell.
	Row *toldRow `json:"row,omitempty"`
}

// toldRow is a message's row as one node tells it another, in the encoding of records.
type toldRow struct {
	Message []byte      `json:"message"`
	State   []byte      `json:"state"`
	Ord     uint64      `json:"ord,string"`
	Place   store.Place `json:"place"`
}

func tellRow(r *store.Row) *toldRow {
	return &toldRow{
		Message: record.AppendRow(nil, &r.Message), State: record.AppendState(nil, &r.State), Ord: r.Ord, Place: r.Place,
	}
}

func (t *toldRow) row() (store.Row, error) {
	r := store.Row{Ord: t.Ord, Place: t.Place}
	err := record.DecodeMessage(t.Message, &r.Message)
	if err != nil {
		return store.Row{}, err
	}
	r.State, err = record.DecodeState(t.State)
	return r, err
}

// operator has the owner of a message's shard do what people ask for.
type operator struct{ n *Node }

func (o operator) Cancel(ctx context.Context, client string, id esh3ar.ID) (store.Row, error) {
	return o.do(ctx, question{Do: "cancel", Client: client, ID: id})
}

func (o operator) Replay(ctx context.Context, client string, id esh3ar.ID) (store.Row, error) {
	return o.do(ctx, question{Do: "replay", Client: client, ID: id})
}

func (o operator) Discard(ctx context.Context, client string, id esh3ar.ID, why string) (store.Row, error) {
	return o.do(ctx, question{Do: "discard", Client: client, ID: id, Why: why})
}

func (o operator) do(ctx context.Context, q question) (store.Row, error) {
	row, err := o.n.here(ctx, q)
	if o.n.peers == nil || !dispatch.IsElsewhere(err) {
		return row, err
	}
	owner, _, ok := o.n.peers.leases.Owner(q.ID.Shard())
	if !ok || owner == o.n.cfg.NodeName {
		return row, err // it is on its way to an owner
	}
	told, err := o.n.peers.ask(ctx, owner, q)
	switch {
	case err != nil:
		return store.Row{}, err
	case told != nil:
		return *told, nil
	}
	if row, err = o.n.dispatch.Message(ctx, q.Client, q.ID); err != nil {
		return store.Row{}, outcomeUnknown("it was done, but what became of the message cannot be read", err)
	}
	return row, nil
}

// here does what a question asks for if this node owns the shard.
func (n *Node) here(ctx context.Context, q question) (store.Row, error) {
	switch q.Do {
	case "cancel":
		return n.dispatch.Cancel(ctx, q.Client, q.ID)
	case "replay":
		return n.dispatch.Replay(ctx, q.Client, q.ID)
	case "discard":
		return n.dispatch.Discard(ctx, q.Client, q.ID, q.Why)
	}
	return store.Row{}, esh3ar.Errorf(esh3ar.KindInternal, "internal", "a node of another version asks for what this one does not know")
}

// ask asks another node, and returns the row that it tells, if it does. Its error is the other's, or says that the outcome is unknown.
func (p *peers) ask(ctx context.Context, node string, q question) (*store.Row, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	raw, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	reply, err := p.bus.Request(ctx, node, askSubject, raw)
	var a answer
	if err == nil {
		err = json.Unmarshal(reply, &a)
	}
	switch {
	case err != nil:
		return nil, outcomeUnknown("the node that has the message did not answer", err)
	case a.Code != "":
		return nil, &esh3ar.Error{Kind: a.Kind, Code: a.Code, Message: a.Message, RetryAfter: a.RetryAfter}
	case a.Row == nil:
		return nil, nil
	}
	row, err := a.Row.row()
	if err != nil {
		return nil, outcomeUnknown("it was done, but what became of the message cannot be read", err)
	}
	return &row, nil
}

func outcomeUnknown(why string, cause error) *esh3ar.Error {
	return esh3ar.Errorf(esh3ar.KindOutcomeUnknown, "outcome_unknown", "%s; ask for the message's status", why).After(time.Second).Because(cause)
}

// answer answers another node's question, as far as it can before ctx ends.
func (n *Node) answer(ctx context.Context, raw []byte) []byte {
	var a answer
	var q question
	err := json.Unmarshal(raw, &q)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, askTime)
		defer cancel()
		var row store.Row
		if row, err = n.here(ctx, q); err == nil {
			a.Row = tellRow(&row)
		}
	}
	if err != nil {
		e := esh3ar.Errorf(esh3ar.KindInternal, "internal", "something went wrong at the node that has the message")
		if own, ok := errors.AsType[*esh3ar.Error](err); ok {
			e = own
		}
		a = answer{Kind: e.Kind, Code: e.Code, Message: e.Message, RetryAfter: e.RetryAfter}
	}
	reply, err := json.Marshal(a)
	if err != nil {
		return nil
	}
	return reply
}
