package cluster

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// counts returns how many shards each of the members has, and fails if a shard
// is with none of them.
func counts(t *rapid.T, owners, members []string) map[string]int {
	count := make(map[string]int)
	for s, o := range owners {
		if !slices.Contains(members, o) {
			t.Fatalf("shard %d is with %q, not one of %q", s, o, members)
		}
		count[o]++
	}
	return count
}

func TestAssign(t *testing.T) {
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,3}-?[0-9]{0,3}`), 2, 12, rapid.ID[string])
	rapid.Check(t, func(t *rapid.T) {
		shards := rapid.IntRange(1, 300).Draw(t, "shards")
		members := names.Draw(t, "members")
		owners := Assign(shards, members)
		count := counts(t, owners, members)
		for _, m := range members {
			if least := shards / len(members); count[m] < least || count[m] > least+1 {
				t.Fatalf("%s has %d of %d shards over %d members", m, count[m], shards, len(members))
			}
		}
		shuffled := rapid.Permutation(members).Draw(t, "order")
		if again := Assign(shards, shuffled); !slices.Equal(owners, again) {
			t.Fatalf("another order of the members: %v, then %v", owners, again)
		}

		// One goes: its shards move, and of the others only so many as it takes to
		// keep the numbers even; the same the other way round, when it comes.
		gone := rapid.IntRange(0, len(members)-1).Draw(t, "gone")
		left := slices.Delete(slices.Clone(members), gone, gone+1)
		after := Assign(shards, left)
		counts(t, after, left)
		moved := 0
		for s := range owners {
			if owners[s] != after[s] && owners[s] != members[gone] {
				moved++
			}
		}
		if most := shards/len(members) + 2*len(members); moved > most {
			t.Fatalf("%d of %d shards moved between the %d that stay, at most %d should", moved, shards, len(left), most)
		}
	})
}

func TestAssignToNobody(t *testing.T) {
	if got := Assign(3, nil); !slices.Equal(got, []string{"", "", ""}) {
		t.Fatalf("%q", got)
	}
}

// TestAssignMoves bounds what moves on the whole: little more than the share of
// the one that comes.
func TestAssignMoves(t *testing.T) {
	moved, ideal := 0, 0
	members := []string{"a"}
	const shards = 64
	for _, name := range []string{"b", "c", "d", "e", "f", "g", "h"} {
		before := Assign(shards, members)
		members = append(members, name)
		after := Assign(shards, members)
		for s := range before {
			if before[s] != after[s] {
				moved++
			}
		}
		ideal += shards / len(members)
	}
	if moved > ideal*5/4 {
		t.Errorf("%d shards moved, %d had to", moved, ideal)
	}
}
