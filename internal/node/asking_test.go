package node

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/cluster"
	"github.com/esh3artech/esh3ar/internal/delivery"
	"github.com/esh3artech/esh3ar/internal/dispatch"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/memory"
	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/breaker"
	"github.com/esh3artech/esh3ar/internal/store/sqlite"
)

const askShards = 2

// asked is two nodes of which one owns all shards and the other has no store.
type asked struct {
	t         *testing.T
	log       *memory.Log
	store     *sqlite.Store
	owner     *Node
	storeless *Node
	reply     atomic.Pointer[string] // what the owner answers, if set
}

func newAsked(t *testing.T) *asked {
	t.Helper()
	dir, logger := t.TempDir(), slog.New(slog.NewTextHandler(t.Output(), nil))
	a := &asked{t: t}
	var err error
	if a.store, err = sqlite.Open(t.Context(), filepath.Join(dir, "test.db"), sqlite.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.store.Close() })
	if a.log, err = memory.Open(new(memory.Disk), memory.Options{Shards: askShards}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.log.Close() })
	server, err := cluster.Start(cluster.Options{
		Name: "server", Dir: filepath.Join(dir, "nats"), MaxStore: 256 << 20, MaxMemory: 64 << 20, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	a.storeless = a.start(server, "storeless", breaker.New(nil, breaker.Options{Logger: logger}), false)
	a.owner = a.start(server, "owner", breaker.New(a.store, breaker.Options{Logger: logger}), true)
	a.until("the owner is known to own all", func() bool {
		for shard := range uint16(askShards) {
			if name, _, ok := a.storeless.peers.leases.Owner(shard); !ok || name != "owner" {
				return false
			}
		}
		return true
	})
	return a
}

// start runs what of a node has to do with questions. It ends with the test.
func (a *asked) start(nats cluster.Connector, name string, s *breaker.Store, owns bool) *Node {
	t := a.t
	t.Helper()
	logger := slog.New(slog.NewTextHandler(t.Output(), nil)).With("on", name)
	n := &Node{log: logger, store: s, peers: new(peers)}
	n.cfg.NodeName = name
	var err error
	p := n.peers
	if p.members, err = cluster.NewMembers(cluster.MembersOptions{NATS: nats, Name: name, Logger: logger}); err != nil {
		t.Fatal(err)
	}
	if p.leases, err = cluster.NewLeases(cluster.LeasesOptions{Members: p.members, Shards: askShards, Logger: logger}); err != nil {
		t.Fatal(err)
	}
	if p.bus, err = cluster.NewBus(nats, name); err != nil {
		t.Fatal(err)
	}
	n.dispatch, err = dispatch.New(dispatch.Options{
		Log: a.log, Store: s, Shards: askShards, Leases: p.leases, Logger: logger,
		Params: delivery.Params{
			Window: 10, WindowBytes: 1 << 20, Hold: 20, Settle: 10 * time.Millisecond, AckTimeout: 10 * time.Millisecond, MaxAttempts: 1,
			Backoff: delivery.Backoff{Base: time.Millisecond, Cap: time.Millisecond},
		},
		CommitEvery: time.Millisecond, ScanEvery: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	run := func(f func() error) {
		running.Go(func() {
			if err := f(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	run(func() error { return p.members.Run(ctx) })
	if owns {
		run(func() error { return p.leases.Run(ctx) })
		run(func() error { return n.dispatch.Run(ctx, time.Second) })
		end, err := p.bus.Handle(askSubject, func(_ string, raw []byte) []byte {
			if reply := a.reply.Load(); reply != nil {
				return []byte(*reply)
			}
			return n.answer(ctx, raw)
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(end)
	}
	t.Cleanup(func() {
		stop()
		running.Wait()
		p.bus.Close()
	})
	return n
}

func (a *asked) until(what string, holds func() bool) {
	a.t.Helper()
	deadline, tick := time.After(30*time.Second), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline:
			a.t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

// accept returns a message that was accepted and has that status.
func (a *asked) accept(to, text string, want esh3ar.Status) *esh3ar.Message {
	a.t.Helper()
	now := time.Now()
	var ids esh3ar.IDs
	m := &esh3ar.Message{
		ID: ids.New(now, esh3ar.ShardOf(to, askShards)), Client: "bank", From: "bank", To: to, Content: text,
		AcceptedAt: now.UTC().Truncate(time.Microsecond), Key: "key of " + text,
	}
	p := journal.Partition{Shard: m.ID.Shard(), Tier: uint8(m.Tier)}
	if _, err := a.log.Append(a.t.Context(), p, journal.AppendRecord(nil, record.AppendMessage(nil, m))); err != nil {
		a.t.Fatal(err)
	}
	a.until(text+" is "+want.String(), func() bool {
		row, err := a.store.Message(a.t.Context(), m.Client, m.ID)
		return err == nil && row.State.Status == want
	})
	return m
}

// silent is a device that acknowledges nothing.
type silent struct{}

func (silent) Deliver(*dispatch.Delivery) {}

// A node that does not reach the store has the owner do what is asked for, and tells what became of it as the store has it.
func TestOwnerTellsWhoHasNoStore(t *testing.T) {
	a := newAsked(t)
	waiting := a.accept("amina", "waiting", esh3ar.StatusQueued)
	device := a.owner.dispatch.Attach("rana", silent{})
	dead := a.accept("rana", "dead", esh3ar.StatusUndelivered)
	device.Detach(true)
	do := operator{a.storeless}
	for _, step := range []struct {
		name string
		do   func() (store.Row, error)
		of   *esh3ar.Message
		want esh3ar.Status
		code string
	}{
		{"cancel", func() (store.Row, error) { return do.Cancel(t.Context(), "bank", waiting.ID) }, waiting, esh3ar.StatusCanceled, ""},
		{"cancel again", func() (store.Row, error) { return do.Cancel(t.Context(), "bank", waiting.ID) }, waiting, esh3ar.StatusCanceled, ""},
		{"cancel what is final", func() (store.Row, error) { return do.Cancel(t.Context(), "bank", dead.ID) }, dead, 0, "already_final"},
		{"another client's", func() (store.Row, error) { return do.Cancel(t.Context(), "shop", dead.ID) }, dead, 0, "message_not_found"},
		{"discard", func() (store.Row, error) { return do.Discard(t.Context(), "bank", dead.ID, "why not") }, dead, esh3ar.StatusUndelivered, ""},
		{"replay", func() (store.Row, error) { return do.Replay(t.Context(), "bank", dead.ID) }, dead, esh3ar.StatusQueued, ""},
		{"replay again", func() (store.Row, error) { return do.Replay(t.Context(), "bank", dead.ID) }, dead, 0, "not_undelivered"},
	} {
		got, err := step.do()
		if step.code != "" {
			if e, ok := errors.AsType[*esh3ar.Error](err); !ok || e.Code != step.code {
				t.Errorf("%s: got error %v, want %s", step.name, err, step.code)
			}
			continue
		}
		if err != nil || got.State.Status != step.want {
			t.Errorf("%s: got %s, error %v; want %s", step.name, got.State.Status, err, step.want)
			continue
		}
		stored, err := a.store.Message(t.Context(), "bank", step.of.ID)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, stored) {
			t.Errorf("%s: got\n%+v, the store has\n%+v", step.name, got, stored)
		}
	}
}

// An owner of an older version does not tell what became of the message, and where the store does not tell it either it is not said
// that nothing was done.
func TestOwnerThatDoesNotTell(t *testing.T) {
	a := newAsked(t)
	waiting := a.accept("amina", "waiting", esh3ar.StatusQueued)
	for name, reply := range map[string]string{
		"older": `{}`, "unreadable": `{"row":{"message":"AA==","state":"AA==","ord":"1","place":1}}`, "broken": `{`,
	} {
		a.reply.Store(&reply)
		_, err := operator{a.storeless}.Cancel(t.Context(), "bank", waiting.ID)
		if e, ok := errors.AsType[*esh3ar.Error](err); !ok || e.Kind != esh3ar.KindOutcomeUnknown || e.Code != "outcome_unknown" {
			t.Errorf("%s: got error %v", name, err)
		}
	}
	// One that has a store reads it there.
	older := `{}`
	a.reply.Store(&older)
	a.storeless.store.Open(a.store)
	if row, err := (operator{a.storeless}).Cancel(t.Context(), "bank", waiting.ID); err != nil || row.State.Status != esh3ar.StatusQueued {
		t.Errorf("with a store: got %s, error %v", row.State.Status, err)
	}
}
