//go:build unix

package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// touches says what a fault works on. Two faults that touch the same do not overlap.
type touches uint16

const (
	process touches = 1 << iota // the server's process: it stops or dies
	disk                        // the file system with the data directory
	database
	network // between devices and the server
	devices // what the devices do
	clock
	memory
	routes   // between the nodes of a cluster
	balancer // in front of the servers
)

// kind is a fault as the schedule knows it.
type kind struct {
	name    string
	touches touches
	// least and most bound how long it lasts.
	least, most time.Duration
	build       func(l *lab, dice *rand.Rand) Fault
}

// kinds are all faults of the laboratory, by name.
//
// A clock jump also counts as touching the process: a server that is started while the machine's clock
// is wrong has no way to know.
func kinds() []kind {
	const ms, s = time.Millisecond, time.Second
	return []kind{
		{"clock-jump", clock | process, 2 * s, 5 * s, newClockJump},
		{"cut-devices", network, 2 * s, 5 * s, newCutDevices},
		{"disk-full", disk, 2 * s, 4 * s, newDiskFull},
		{"double-acknowledgements", devices, 2 * s, 5 * s, newDoubleAcknowledgements},
		{"fsync-error", disk | process, 1 * s, 2 * s, newSyncError},
		{"kill", process, 10 * ms, 800 * ms, newKill},
		{"kill-balancer", balancer, 10 * ms, 800 * ms, newKillBalancer},
		{"kill-leader", process, 100 * ms, 6 * s, newKillLeader},
		{"kill-most", process, 500 * ms, 4 * s, newKillMost},
		{"long-pause", process, 6 * s, 9 * s, newLongPause},
		{"lose-disk", process | disk | database | routes, 100 * ms, 6 * s, newLoseDisk},
		{"memory-tight", memory, 2 * s, 5 * s, newMemoryTight},
		{"partition", routes, 3 * s, 12 * s, newPartition},
		{"partition-all", routes, 2 * s, 6 * s, newPartitionAll},
		{"partition-elastic", routes, 3 * s, 12 * s, newPartitionElastic},
		{"partition-one-way", routes, 3 * s, 12 * s, newPartitionOneWay},
		{"partition-pair", routes, 3 * s, 12 * s, newPartitionPair},
		{"pause", process, 500 * ms, 4 * s, newPause},
		{"power-cut", process | disk, 10 * ms, 500 * ms, newPowerCut},
		{"power-cut-all", process | disk, 10 * ms, 500 * ms, newPowerCutAll},
		{"rolling-restart", process, 8 * s, 12 * s, newRollingRestart},
		{"silent-devices", devices, 2 * s, 4 * s, newSilentDevices},
		{"slow-disk", disk, 2 * s, 4 * s, newSlowDisk},
		{"slow-links", routes, 3 * s, 8 * s, newSlowLinks},
		{"stalled-devices", network, 1 * s, 4 * s, newStalledDevices},
		{"store-down", database, 2 * s, 6 * s, newStoreDown},
		{"store-hang", database, 2 * s, 6 * s, newStoreHang},
		{"store-set-back", database | process | disk, 2 * s, 5 * s, newStoreSetBack},
		{"terminate", process, 10 * ms, 500 * ms, newTerminate},
	}
}

// Faults returns the names of all faults.
func Faults() []string {
	var names []string
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	return names
}

// Step is one fault of a schedule.
type Step struct {
	At    time.Duration `json:"at"`  // since the beginning of the load
	For   time.Duration `json:"for"` // until it is healed
	Fault string        `json:"fault"`
	Seed  uint64        `json:"seed"` // of what the fault itself leaves to chance
}

// String is the step's line in the printed schedule.
func (s Step) String() string {
	return fmt.Sprintf("%6.2fs %-24s for %s", s.At.Seconds(), s.Fault, s.For)
}

// The schedule leaves the server alone at first, so that there is something to lose, and between two
// faults for at most a while.
const (
	planLead = time.Second
	planRest = 1500 * time.Millisecond
)

// Plan returns the schedule of a seed: which of the named faults is injected when, within length.
// Equal arguments give equal schedules. Every fault comes once before one comes again; some overlap.
func Plan(seed uint64, length time.Duration, names []string) []Step {
	dice := rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))
	var chosen []kind
	for _, k := range kinds() {
		if slices.Contains(names, k.name) {
			chosen = append(chosen, k)
		}
	}
	var steps []Step
	free := make(map[touches]time.Duration) // when each thing is left alone again
	at := planLead
	for len(chosen) > 0 {
		for _, i := range dice.Perm(len(chosen)) {
			k := chosen[i]
			for bit := touches(1); bit != 0; bit <<= 1 {
				if k.touches&bit != 0 {
					at = max(at, free[bit])
				}
			}
			step := Step{
				At: at.Round(time.Millisecond), For: (k.least + rand64(dice, k.most-k.least)).Round(time.Millisecond),
				Fault: k.name, Seed: dice.Uint64(),
			}
			end := step.At + step.For
			if end > length {
				return steps
			}
			steps = append(steps, step)
			for bit := touches(1); bit != 0; bit <<= 1 {
				if k.touches&bit != 0 {
					free[bit] = end + 200*time.Millisecond
				}
			}
			if dice.IntN(3) > 0 { // the next one waits for the end of this one
				at = end
			}
			at += 100*time.Millisecond + rand64(dice, planRest)
		}
	}
	return steps
}

// rand64 draws a duration below most.
func rand64(dice *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(dice.Int64N(int64(most)))
}

// Plan returns the schedule of a run with these options on a machine where every fault is available.
func (o *Options) Plan() []Step { return Plan(o.Seed, o.Duration, o.faults()) }

// faults are the names of those that the options ask for and that their servers and their store can have.
func (o *Options) faults() []string {
	var names []string
	for _, name := range Faults() {
		can := true
		switch name {
		case "store-down", "store-hang":
			can = o.Database != nil
		case "kill-leader", "kill-most", "long-pause", "lose-disk", "partition", "partition-all", "partition-one-way", "partition-pair", "power-cut-all", "rolling-restart", "slow-links":
			can = o.Nodes > 1
		case "kill-balancer":
			can = o.Balancer
		case "partition-elastic":
			can = o.Elastic > 0
		}
		if can && (o.Faults == nil || slices.Contains(o.Faults, name)) {
			names = append(names, name)
		}
	}
	return names
}

// table is a schedule as people read it.
func table(steps []Step) string {
	var b strings.Builder
	for _, s := range steps {
		b.WriteString("  " + s.String() + "\n")
	}
	return b.String()
}
