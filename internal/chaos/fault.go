//go:build unix

package chaos

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/esh3artech/esh3ar/internal/chaos/faultfs"
)

// Fault is something that goes wrong. Inject and Heal are each called once, in this order, by one
// goroutine. Their errors mean that the laboratory failed, not the server.
type Fault interface {
	Name() string
	Inject(ctx context.Context) error
	Heal(ctx context.Context) error
}

// prepared is a fault that waits for something before it strikes. Prepare's error says why it is left out: it must not
// strike as things are.
type prepared interface {
	Prepare(ctx context.Context) error
}

// named gives a fault its name.
type named string

func (n named) Name() string { return string(n) }

// unavailable says why a fault cannot be injected on this machine, "" if it can.
func (l *lab) unavailable(name string) string {
	for _, m := range l.machines {
		switch name {
		case "disk-full", "fsync-error", "slow-disk", "power-cut", "power-cut-all":
			if m.fsys == nil {
				return m.noDisk.Error()
			}
		case "memory-tight":
			if m.group == nil {
				return m.noGroup.Error()
			}
		}
	}
	return ""
}

// kill ends the server with SIGKILL.
type kill struct {
	named
	*machine
}

func newKill(l *lab, dice *rand.Rand) Fault { return kill{"kill", l.some(dice)} }

func (f kill) Inject(context.Context) error {
	f.say("killed")
	return f.kill()
}

func (f kill) Heal(context.Context) error { return f.server.launch() }

// powerCut ends the server with SIGKILL and takes from the disk what was not synced.
type powerCut struct {
	named
	*machine
	dice *rand.Rand
}

func newPowerCut(l *lab, dice *rand.Rand) Fault { return powerCut{"power-cut", l.keeper(dice), dice} }

func (f powerCut) Inject(context.Context) error {
	if err := f.kill(); err != nil {
		return err
	}
	return f.cutPower(f.dice)
}

func (f powerCut) Heal(context.Context) error { return f.server.launch() }

// terminate asks the server to stop, and sees to it that it does in time and without complaint.
type terminate struct {
	named
	*machine
}

func newTerminate(l *lab, dice *rand.Rand) Fault { return terminate{"terminate", l.some(dice)} }

func (f terminate) Inject(context.Context) error {
	f.stop()
	return nil
}

func (f terminate) Heal(context.Context) error { return f.server.launch() }

// hang stops the server's process for a while, with SIGSTOP.
type hang struct {
	named
	*machine
}

func newPause(l *lab, dice *rand.Rand) Fault { return hang{"pause", l.some(dice)} }

func (f hang) Inject(context.Context) error {
	f.server.signal(syscall.SIGSTOP)
	return nil
}

func (f hang) Heal(context.Context) error {
	f.server.signal(syscall.SIGCONT)
	return nil
}

// diskFull leaves so little room that messages are refused before they are published, or so little
// that a write fails in its middle.
type diskFull struct {
	named
	*machine
	room int64
}

func newDiskFull(l *lab, dice *rand.Rand) Fault {
	room := dice.Int64N(64 << 10)
	if dice.IntN(3) == 0 {
		room = diskReserve - 1
	}
	return diskFull{"disk-full", l.keeper(dice), room}
}

func (f diskFull) Inject(context.Context) error {
	f.say("%d bytes are left", f.room)
	f.fsys.Limit(f.room)
	return nil
}

func (f diskFull) Heal(context.Context) error {
	f.fsys.Unlimit()
	return nil
}

// slowDisk makes syncs and writes take long.
type slowDisk struct {
	named
	*machine
	delays faultfs.Delays
}

func newSlowDisk(l *lab, dice *rand.Rand) Fault {
	delays := faultfs.Delays{Sync: 20*time.Millisecond + rand64(dice, 400*time.Millisecond), Write: rand64(dice, 5*time.Millisecond)}
	return slowDisk{"slow-disk", l.keeper(dice), delays}
}

func (f slowDisk) Inject(context.Context) error {
	f.fsys.Slow(f.delays)
	return nil
}

func (f slowDisk) Heal(context.Context) error {
	f.fsys.Slow(faultfs.Delays{})
	return nil
}

// syncError makes syncs fail. What was written before a failed sync never reaches the disk, so the
// machine is in the end taken down hard, as a careful operator would do, and started anew.
type syncError struct {
	named
	*machine
	dice *rand.Rand
}

func newSyncError(l *lab, dice *rand.Rand) Fault {
	return syncError{"fsync-error", l.keeper(dice), dice}
}

func (f syncError) Inject(context.Context) error {
	f.fsys.FailSync(true)
	return nil
}

func (f syncError) Heal(context.Context) error {
	f.fsys.FailSync(false)
	// The server goes on for a moment on a disk that syncs again and has lost something.
	pause(f.ctx, rand64(f.dice, 500*time.Millisecond))
	if err := f.kill(); err != nil {
		return err
	}
	if err := f.cutPower(f.dice); err != nil {
		return err
	}
	return f.server.launch()
}

// storeDown stops PostgreSQL at once.
type storeDown struct {
	named
	*lab
}

func newStoreDown(l *lab, _ *rand.Rand) Fault { return storeDown{"store-down", l} }

func (f storeDown) Inject(context.Context) error { return f.opts.Database.Stop() }

func (f storeDown) Heal(context.Context) error { return f.opts.Database.Resume() }

// storeHang freezes PostgreSQL's processes.
type storeHang struct {
	named
	*lab
}

func newStoreHang(l *lab, _ *rand.Rand) Fault { return storeHang{"store-hang", l} }

func (f storeHang) Inject(context.Context) error { return f.opts.Database.Freeze() }

func (f storeHang) Heal(context.Context) error { return f.opts.Database.Thaw() }

// storeSetBack copies the embedded store and, a while later, puts the copy back, as somebody does who
// restores a backup.
type storeSetBack struct {
	named
	*machine
	copies string
}

func newStoreSetBack(l *lab, dice *rand.Rand) Fault {
	if l.opts.Database != nil {
		return databaseSetBack{"store-set-back", l, dice.IntN(2) == 0}
	}
	return storeSetBack{"store-set-back", l.machines[0], filepath.Join(l.dir, "copy")}
}

// storeFiles are those of the embedded store that hold what was committed.
var storeFiles = []string{"esh3ar.db", "esh3ar.db-wal"}

func (f storeSetBack) Inject(context.Context) error {
	return f.whileDown(func() error {
		if err := os.MkdirAll(f.copies, 0o700); err != nil {
			return err
		}
		return copyFiles(f.copies, f.data, storeFiles)
	})
}

func (f storeSetBack) Heal(context.Context) error {
	return f.whileDown(func() error {
		if err := removeFiles(f.data, append([]string{"esh3ar.db-shm"}, storeFiles...)); err != nil {
			return err
		}
		return copyFiles(f.data, f.copies, storeFiles)
	})
}

// databaseSetBack copies PostgreSQL and, a while later, puts the copy in its place: in order, while no server runs, or
// under the servers, as a standby does that takes over without the last commits of its primary.
type databaseSetBack struct {
	named
	*lab
	inOrder bool
}

func (f databaseSetBack) Inject(context.Context) error { return f.opts.Database.Backup() }

func (f databaseSetBack) Heal(context.Context) error {
	back := func() error {
		db := f.opts.Database
		return errors.Join(db.Stop(), db.Restore(), db.Resume())
	}
	if !f.inOrder {
		f.say("         under the servers")
		return back()
	}
	f.say("         while all servers are down")
	if err := each(f.machines, (*machine).kill); err != nil {
		return err
	}
	if err := back(); err != nil {
		return err
	}
	return each(f.machines, func(m *machine) error { return m.server.launch() })
}

// copyFiles copies the files that there are, durably; what the target has of the others goes.
func copyFiles(to, from string, names []string) error {
	if err := removeFiles(to, names); err != nil {
		return err
	}
	for _, name := range names {
		raw, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(to, name), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(raw)
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func removeFiles(dir string, names []string) error {
	for _, name := range names {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// cutDevices cuts the devices' connections after a random number of bytes.
type cutDevices struct {
	named
	*lab
}

func newCutDevices(l *lab, _ *rand.Rand) Fault { return cutDevices{"cut-devices", l} }

func (f cutDevices) Inject(context.Context) error {
	f.proxy.cutting.Store(true)
	return nil
}

func (f cutDevices) Heal(context.Context) error {
	f.proxy.cutting.Store(false)
	return nil
}

// stalledDevices lets nothing through to the devices and back, and keeps their connections.
type stalledDevices struct {
	named
	*lab
}

func newStalledDevices(l *lab, _ *rand.Rand) Fault { return stalledDevices{"stalled-devices", l} }

func (f stalledDevices) Inject(context.Context) error {
	f.proxy.stalled.Store(true)
	return nil
}

func (f stalledDevices) Heal(context.Context) error {
	f.proxy.stalled.Store(false)
	return nil
}

// silentDevices has every second recipient's devices receive and not acknowledge.
type silentDevices struct {
	named
	*lab
}

func newSilentDevices(l *lab, _ *rand.Rand) Fault { return silentDevices{"silent-devices", l} }

func (f silentDevices) Inject(context.Context) error {
	f.silence.Store(true)
	return nil
}

func (f silentDevices) Heal(context.Context) error {
	f.silence.Store(false)
	return nil
}

// doubleAcknowledgements has devices acknowledge everything twice, together with what they
// acknowledged long ago and what they never got.
type doubleAcknowledgements struct {
	named
	*lab
}

func newDoubleAcknowledgements(l *lab, _ *rand.Rand) Fault {
	return doubleAcknowledgements{"double-acknowledgements", l}
}

func (f doubleAcknowledgements) Inject(context.Context) error {
	f.doubled.Store(true)
	return nil
}

func (f doubleAcknowledgements) Heal(context.Context) error {
	f.doubled.Store(false)
	return nil
}

// startForJump is how long the clock waits for a server that is starting.
const startForJump = 10 * time.Second

// clockJump sets the clock that the server takes for the machine's, by hours in either direction.
type clockJump struct {
	named
	*machine
	by time.Duration
}

func newClockJump(l *lab, dice *rand.Rand) Fault {
	by := 2*time.Hour + rand64(dice, 10*time.Hour)
	if dice.IntN(2) == 0 {
		by = -by
	}
	return clockJump{"clock-jump", l.some(dice), by.Round(time.Second)}
}

// Prepare waits until the server is there: a start that a fault before it has put off would take the wrong time for
// the right one.
func (f clockJump) Prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startForJump)
	defer cancel()
	return f.server.up(ctx)
}

func (f clockJump) Inject(context.Context) error {
	f.say("by %s", f.by)
	return f.setClock(f.by)
}

func (f clockJump) Heal(context.Context) error { return f.setClock(0) }

// memoryTight gives the server hardly more memory than it uses.
type memoryTight struct {
	named
	*machine
}

func newMemoryTight(l *lab, dice *rand.Rand) Fault { return memoryTight{"memory-tight", l.some(dice)} }

func (f memoryTight) Inject(context.Context) error {
	limit, err := f.group.tighten()
	if err == nil {
		f.say("%d MiB", limit>>20)
	}
	return err
}

func (f memoryTight) Heal(context.Context) error { return f.group.loosen() }
