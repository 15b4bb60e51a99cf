package ingest

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/fair"
)

// However many of one client's batches wait for room, another client's has it next.
func TestBatchesHaveTheirTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(fair.DefaultWeights(), func() int { return 100 })
		flood := fair.Flow{Tier: esh3ar.TierGold, Client: "flood"}
		quiet := fair.Flow{Tier: esh3ar.TierGold, Client: "quiet"}
		admitted := make(chan string, 100)
		held := make(chan *wait, 100)
		ask := func(f fair.Flow) {
			w := turns.take(f, 100)
			admitted <- f.Client
			held <- w
		}
		for range 20 {
			go ask(flood)
		}
		synctest.Wait()
		go ask(quiet)
		synctest.Wait()
		if n := len(admitted); n != 1 {
			t.Fatalf("%d have room for one", n)
		}
		<-admitted
		turns.done(<-held)
		if got := <-admitted; got != "quiet" {
			t.Errorf("next is %s", got)
		}
		turns.done(<-held)
		for range 19 {
			<-admitted
			turns.done(<-held)
		}
	})
}

// More than there is room for is admitted all the same, alone.
func TestTurnLargerThanTheRoom(t *testing.T) {
	turns := newTurns(fair.DefaultWeights(), func() int { return 10 })
	f := fair.Flow{Client: "a"}
	w := turns.take(f, 50)
	second := make(chan *wait)
	go func() { second <- turns.take(f, 1) }()
	turns.done(w)
	turns.done(<-second)
	if turns.taken != 0 {
		t.Errorf("%d are taken", turns.taken)
	}
}

// Batches make room while messages come alone, and have it all a moment after the last.
func TestBatchesMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := company{start: time.Now()}
		if c.polite() || c.room() != batchRoom || c.part() != batchPart {
			t.Error("room for nobody")
		}
		time.Sleep(time.Hour)
		c.came(time.Now())
		time.Sleep(politeFor - 1)
		if !c.polite() || c.room() != politeRoom || c.part() != politePart {
			t.Error("no room for others")
		}
		time.Sleep(time.Nanosecond)
		if c.polite() {
			t.Error("room for nobody any more")
		}
	})
}
