package cluster

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"slices"
)

// owners returns the names of the members that shards are assigned to: those that
// take any and whose store is not away. If it is so for all, nobody would be
// better, and it does not count.
func owners(live map[string]Member) []string {
	var reaching, all []string
	for name, m := range live {
		if !m.takesShards() {
			continue
		}
		all = append(all, name)
		if !m.Away {
			reaching = append(reaching, name)
		}
	}
	if len(reaching) == 0 {
		reaching = all
	}
	slices.Sort(reaching)
	return reaching
}

// Assign says which member each shard belongs with, by name; "" for all if
// there is none. It is the same everywhere for the same members, in whatever
// order they are given, and their numbers of shards differ by at most one.
//
// Every pair of a shard and a member has a weight of its own (rendezvous
// hashing), and the heaviest pairs are served first, as far as the members'
// numbers allow. A member that comes or goes takes or leaves its own share, and
// moves little else.
func Assign(shards int, members []string) []string {
	owners := make([]string, shards)
	members = slices.Compact(slices.Sorted(slices.Values(members)))
	if len(members) == 0 {
		return owners
	}
	type pair struct {
		weight        uint64
		shard, member int
	}
	pairs := make([]pair, 0, shards*len(members))
	for m, name := range members {
		for s := range shards {
			pairs = append(pairs, pair{weight(s, name), s, m})
		}
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(a.shard, b.shard), cmp.Compare(a.member, b.member))
	})
	// So many each, and so many members one more.
	each, more := shards/len(members), shards%len(members)
	count := make([]int, len(members))
	for _, p := range pairs {
		if owners[p.shard] != "" || count[p.member] > each || count[p.member] == each && more == 0 {
			continue
		}
		if count[p.member] == each {
			more--
		}
		count[p.member]++
		owners[p.shard] = members[p.member]
	}
	return owners
}

// weight is the rendezvous weight of a shard with a member.
func weight(shard int, member string) uint64 {
	h := fnv.New64a()
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(shard))
	h.Write(b[:])
	h.Write([]byte(member))
	// FNV leaves names that differ in their last byte close together; this
	// finish (of MurmurHash3) spreads every bit over all.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
