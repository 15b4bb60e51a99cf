//go:build unix

package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// killLeader kills the node that leads the most streams of the journal, which can accept nothing until they have other
// leaders.
type killLeader struct {
	named
	*lab
	dice  *rand.Rand
	fatal *machine
}

func newKillLeader(l *lab, dice *rand.Rand) Fault {
	return &killLeader{named: "kill-leader", lab: l, dice: dice}
}

func (f *killLeader) Prepare(ctx context.Context) error {
	leads, err := f.streams.leaders(ctx)
	if err != nil {
		return fmt.Errorf("who leads is not known: %w", err)
	}
	all := 0
	for _, m := range f.draft(f.dice, len(f.core())) { // among equals any
		if all += leads[m.name]; f.fatal == nil || leads[m.name] > leads[f.fatal.name] {
			f.fatal = m
		}
	}
	f.fatal.say("leads %d of %d streams", leads[f.fatal.name], all)
	return nil
}

func (f *killLeader) Inject(context.Context) error { return f.fatal.kill() }

func (f *killLeader) Heal(context.Context) error { return f.fatal.server.launch() }

// loseDisk kills a node that keeps the journal and takes everything from its disk. It comes back under its name with an
// empty directory, as the documentation has it for a machine that was replaced: while all others are up and have all that
// there is, and nothing else is touched until it has it too.
type loseDisk struct {
	named
	*machine
}

func newLoseDisk(l *lab, dice *rand.Rand) Fault { return loseDisk{"lose-disk", l.keeper(dice)} }

const (
	// wholeBefore is how long a disk that is to be lost waits for the others to have everything, and wholeAfter how
	// long the node may take until it has everything again.
	wholeBefore = 30 * time.Second
	wholeAfter  = bootLimit
)

// Prepare waits until it is not the last copy of anything.
func (f loseDisk) Prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, wholeBefore)
	defer cancel()
	return f.streams.whole(ctx)
}

func (f loseDisk) Inject(context.Context) error {
	if err := f.kill(); err != nil {
		return err
	}
	files, err := os.ReadDir(f.data)
	if err != nil {
		return err
	}
	f.say("killed, and its disk is lost")
	for _, file := range files {
		if err := os.RemoveAll(filepath.Join(f.data, file.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (f loseDisk) Heal(ctx context.Context) error {
	if err := f.server.launch(); err != nil {
		return err
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, wholeAfter)
	defer cancel()
	if err := f.streams.whole(ctx); err != nil && f.ctx.Err() == nil {
		f.book.fault("%s has not got back what was on its disk within %s: %v\n%s", f.name, wholeAfter, err, f.server.tail(1500))
	}
	f.say("has everything again after %.2f s", time.Since(began).Seconds())
	return nil
}
