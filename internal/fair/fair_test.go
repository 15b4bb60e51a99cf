package fair_test

import (
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/fair"
)

func weights() fair.Weights { return fair.Weights{16, 4, 1} }

func flow(tier esh3ar.Tier, client string) fair.Flow { return fair.Flow{Tier: tier, Client: client} }

// next pops work, and ends its turn at that cost.
func next(t testing.TB, q *fair.Queue[string], cost float64) string {
	t.Helper()
	work, turn, ok := q.Pop()
	if !ok {
		t.Fatal("nothing to do")
	}
	q.Done(turn, cost)
	return work
}

func TestOneFlowIsFirstInFirstOut(t *testing.T) {
	q := fair.New[string](weights())
	for i := range 1000 {
		q.Push(flow(esh3ar.TierGold, "a"), fmt.Sprint(i))
	}
	for i := range 1000 {
		if got := next(t, q, float64(1+i%7)); got != fmt.Sprint(i) {
			t.Fatalf("%d. is %s", i, got)
		}
	}
	if _, _, ok := q.Pop(); ok || q.Len() != 0 {
		t.Errorf("work left: %d", q.Len())
	}
}

// A client that comes with one thing to do has its turn next, however much another one has waiting.
func TestFloodHoldsNobodyUp(t *testing.T) {
	q := fair.New[string](weights())
	for range 100_000 {
		q.Push(flow(esh3ar.TierSilver, "flood"), "flood")
	}
	for round := range 1000 {
		for range 10 {
			next(t, q, 64)
		}
		q.Push(flow(esh3ar.TierSilver, "quiet"), "quiet")
		q.Push(flow(esh3ar.TierGold, "gold"), "gold")
		got := []string{next(t, q, 1), next(t, q, 1), next(t, q, 1)}
		served := map[string]int{}
		for _, g := range got {
			served[g]++
		}
		if served["quiet"] != 1 || served["gold"] != 1 {
			t.Fatalf("round %d: served %v", round, got)
		}
	}
}

// Who comes late is not owed what others had before.
func TestNothingIsSavedUp(t *testing.T) {
	q := fair.New[string](weights())
	for range 1000 {
		q.Push(flow(esh3ar.TierGold, "a"), "a")
	}
	for range 500 {
		next(t, q, 1)
	}
	for range 100 {
		q.Push(flow(esh3ar.TierGold, "b"), "b")
	}
	served := map[string]int{}
	for range 100 {
		served[next(t, q, 1)]++
	}
	if served["a"] < 49 || served["b"] < 49 {
		t.Errorf("of 100 turns: %v", served)
	}
}

func TestTiersShareByWeight(t *testing.T) {
	q := fair.New[string](weights())
	for tier := range esh3ar.Tier(esh3ar.Tiers) {
		for range 10_000 {
			q.Push(flow(tier, "client"), tier.String())
		}
	}
	served := map[string]int{}
	for range 2100 {
		served[next(t, q, 1)]++
	}
	for name, want := range map[string]int{"gold": 1600, "silver": 400, "bronze": 100} {
		if got := served[name]; got < want-2 || got > want+2 {
			t.Errorf("%s had %d of 2100 turns, want %d", name, got, want)
		}
	}
}

// The bound that the discipline promises, for any costs and any number of turns under way: as long as two
// flows both have work waiting, what they got differs by no more than a turn of each; and so for tiers,
// by weight.
func TestShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const most = 50.0 // cost of a turn
		q := fair.New[int](weights())
		n := rapid.IntRange(2, 6).Draw(t, "flows")
		flows := make([]fair.Flow, n)
		for i := range flows {
			tier := esh3ar.Tier(rapid.IntRange(0, esh3ar.Tiers-1).Draw(t, "tier"))
			flows[i] = flow(tier, fmt.Sprint("client", i))
			for range 2000 {
				q.Push(flows[i], i)
			}
		}
		workers := rapid.IntRange(1, 4).Draw(t, "workers")
		costs := rapid.SliceOfN(rapid.Float64Range(0.5, most), 50, 50).Draw(t, "costs")
		got := make([]float64, n)
		tiers := map[esh3ar.Tier]float64{}
		type running struct {
			turn fair.Turn
			cost float64
			of   int
		}
		var under []running
		for i := range 1500 {
			if len(under) == workers {
				r := under[0]
				under = under[1:]
				q.Done(r.turn, r.cost)
				got[r.of] += r.cost
				tiers[flows[r.of].Tier] += r.cost
			}
			of, turn, _ := q.Pop()
			under = append(under, running{turn, costs[(i*7+of)%len(costs)], of})
		}
		slack := most * float64(2+2*workers)
		for i := range flows {
			for j := range i {
				if flows[i].Tier == flows[j].Tier && math.Abs(got[i]-got[j]) > slack {
					t.Fatalf("two clients of one tier got %.0f and %.0f", got[i], got[j])
				}
			}
		}
		w := weights()
		for a, x := range tiers {
			for b, y := range tiers {
				if d := math.Abs(x/float64(w[a]) - y/float64(w[b])); d > slack {
					t.Fatalf("%s got %.0f, %s got %.0f", a, x, b, y)
				}
			}
		}
	})
}

// Any sequence of pushes, pops and ends loses nothing and keeps each flow's order.
func TestAnySequence(t *testing.T) {
	type work struct {
		flow fair.Flow
		n    int
	}
	rapid.Check(t, func(t *rapid.T) {
		q := fair.New[work](weights())
		pushed, popped := map[fair.Flow]int{}, map[fair.Flow]int{}
		var under []fair.Turn
		length := 0
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0:
				f := flow(esh3ar.Tier(rapid.IntRange(0, 2).Draw(t, "tier")), rapid.StringMatching("[a-e]").Draw(t, "client"))
				q.Sooner(f, flow(esh3ar.TierGold, "a"))
				q.Push(f, work{f, pushed[f]})
				pushed[f]++
				length++
			case 1:
				w, turn, ok := q.Pop()
				if ok != (length > 0) {
					t.Fatalf("pop says %t with %d waiting", ok, length)
				}
				if !ok {
					continue
				}
				if w.n != popped[w.flow] {
					t.Fatalf("%v: %d comes after %d", w.flow, w.n, popped[w.flow])
				}
				popped[w.flow]++
				length--
				under = append(under, turn)
			case 2:
				if len(under) > 0 {
					q.Done(under[0], rapid.Float64Range(0, 100).Draw(t, "cost"))
					under = under[1:]
				}
			}
			if q.Len() != length {
				t.Fatalf("length %d, want %d", q.Len(), length)
			}
		}
	})
}

func TestSooner(t *testing.T) {
	q := fair.New[string](weights())
	a, b, gold := flow(esh3ar.TierSilver, "a"), flow(esh3ar.TierSilver, "b"), flow(esh3ar.TierGold, "g")
	if q.Sooner(a, b) {
		t.Error("sooner than what does not wait")
	}
	for range 100 {
		q.Push(a, "a")
	}
	for range 10 {
		next(t, q, 1)
	}
	if !q.Sooner(b, a) || !q.Sooner(gold, a) {
		t.Error("a newcomer is not sooner than the end of a flood")
	}
	if q.Sooner(a, a) {
		t.Error("sooner than itself")
	}
	q.Push(b, "b")
	if q.Sooner(a, b) {
		t.Error("the end of a flood is sooner than a newcomer")
	}
}

// Clients that come once are not remembered for ever.
func TestFlowsAreForgotten(t *testing.T) {
	q := fair.New[string](weights())
	for i := range 100_000 {
		q.Push(flow(esh3ar.TierBronze, fmt.Sprint(i)), "")
		next(t, q, 3)
		if n := q.Flows(); n > 200 {
			t.Fatalf("after %d clients %d are remembered", i+1, n)
		}
	}
	// Nor while somebody always has work.
	for i := range 10_000 {
		q.Push(flow(esh3ar.TierBronze, "busy"), "")
		q.Push(flow(esh3ar.TierBronze, "busy"), "")
		q.Push(flow(esh3ar.TierBronze, fmt.Sprint("x", i)), "")
		next(t, q, 1)
		next(t, q, 1)
	}
	if n := q.Flows(); n > 200 {
		t.Errorf("%d flows are remembered", n)
	}
}

func BenchmarkQueue(b *testing.B) {
	for _, clients := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint(clients, " clients"), func(b *testing.B) {
			q := fair.New[int](weights())
			flows := make([]fair.Flow, clients)
			for i := range flows {
				flows[i] = flow(esh3ar.Tier(i%esh3ar.Tiers), fmt.Sprint("client-", i))
				q.Push(flows[i], i)
				q.Push(flows[i], i)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				of, turn, _ := q.Pop()
				q.Push(flows[of], of)
				q.Done(turn, float64(1+i%8))
				i++
			}
		})
	}
}
