package hub

import (
	"cmp"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// someCandidates are that many, a tenth of them busy, of different ages.
func someCandidates(n int) []candidate {
	chance := rand.New(rand.NewPCG(1, 2))
	all := make([]candidate, n)
	for i, age := range chance.Perm(n) {
		all[i] = candidate{busy: chance.IntN(10) == 0, age: time.Duration(age)}
	}
	return all
}

// TestFirstToGo: those chosen are the first of all in order.
func TestFirstToGo(t *testing.T) {
	for _, many := range []int{0, 1, 2, 10, 1000} {
		all := someCandidates(many)
		sorted := slices.SortedFunc(slices.Values(all), func(a, b candidate) int {
			busy := map[bool]int{true: 1}
			return cmp.Or(cmp.Compare(busy[a.busy], busy[b.busy]), cmp.Compare(b.age, a.age))
		})
		for _, n := range []int{1, 2, 3, 9, 10, 11, 999, 1000, 5000} {
			for name, order := range map[string]iter.Seq[candidate]{
				"as they come": slices.Values(all), "the first first": slices.Values(sorted), "the last first": func(yield func(candidate) bool) {
					for _, c := range slices.Backward(sorted) {
						if !yield(c) {
							return
						}
					}
				},
			} {
				if got := firstToGo(order, n); !slices.Equal(got, sorted[:min(n, many)]) {
					t.Errorf("%d of %d, %s: %v", n, many, name, got)
				}
			}
		}
	}
}

// BenchmarkFirstToGo chooses as many of a node's devices as a tick tells to go.
func BenchmarkFirstToGo(b *testing.B) {
	for _, many := range []int{1000, 20_000} {
		all := someCandidates(many)
		b.Run(fmt.Sprint("devices=", many), func(b *testing.B) {
			b.ReportAllocs()
			n := Portion(int64(many), 8*time.Second, emptyTick)
			for b.Loop() {
				if got := firstToGo(slices.Values(all), n); len(got) != n {
					b.Fatal(len(got))
				}
			}
		})
	}
}
