package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// Run serves until ctx ends or a part fails, then stops in order and closes everything.
//
// The order of the stop, and why: first /readyz says no, and for the drain delay nothing else changes, so that balancers
// send their requests elsewhere before any of them meets a closed door, but that devices which negotiate are sent to other
// nodes. One of several nodes then tells its devices to reconnect, at a pace, while it still answers: they come back
// to it at once to hear where to go. Then nothing new is accepted, while requests
// under way get their answer and event streams end; devices that are left are told to reconnect, and what is in flight to them is
// handed back; then others lead what this node's server led, and own its shards; then dispatch stores what it knows and ends, which needs the store; then the journal,
// which all before may still have used; the store last.
//
// All of that has one deadline, from which each part draws (stopLimits): requests, devices and the shards' way to other nodes
// have the drain timeout, which begins after the drain delay, and dispatch has half of it again for what
// it stores last; each has at least a second; two more are for the rest. So a stop takes at most the drain delay, one and a half
// times the drain timeout, and two seconds. A part that does not end in time is cut off, or left to the end of the process: the
// journal is synced with every append, and what is not stored is read again at the next start, here or by the shard's next
// owner. The log says which part it was, and at the end how long each took.
func (n *Node) Run(ctx context.Context) error {
	limits := n.cfg.stopLimits()
	// The parts outlive ctx until it is their turn.
	base := context.WithoutCancel(ctx)
	appendCtx, stopAppend := context.WithCancel(base)
	defer stopAppend()
	dispatchCtx, stopDispatch := context.WithCancel(base)
	defer stopDispatch()

	running := newParts(base)
	failed := running.failed
	running.run("journal", func() error {
		if err := n.appender.Run(appendCtx); err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("journal: %w", err)
		}
		return nil
	})
	dispatched := running.run("dispatch", func() error { return n.dispatch.Run(dispatchCtx, limits.committing) })
	joinedCtx, leave := context.WithCancel(base)
	defer leave()
	talkCtx, stopTalk := context.WithCancel(base)
	defer stopTalk()
	if n.peers != nil {
		running.run("cluster", func() error { return n.peers.run(talkCtx, joinedCtx, n) })
	}
	running.run("posts", n.front.Run)
	running.run("http", n.serve)
	for name, run := range map[string]func(context.Context) error{
		"events": n.notify.Run, "webhooks": n.webhooks.Run, "api": n.api.Run, "opening": n.opening.wait, "keys": n.keys.run,
		"retention": n.retain, "load": n.accepting.run, "memory": n.memory.run, "clock": n.clock.Run, "health": n.health.Run,
	} {
		running.run(name, func() error { return run(dispatchCtx) })
	}
	if n.cert != nil {
		running.run("certificate", func() error { return n.watchCertificate(dispatchCtx) })
	}

	select {
	case <-ctx.Done():
		n.log.Info("stopping")
	case <-failed.Done():
		n.log.Error("stopping after a failure", "err", context.Cause(failed))
	}
	n.health.Drain()
	if n.peers != nil {
		n.peers.places.leave()
	}
	n.announce(failed)
	stop := newStopping(n.log)
	drain, cancel := context.WithTimeout(base, limits.drain)
	defer cancel()
	defer context.AfterFunc(drain, stopAppend)() // whoever still waits for the journal then is cut off
	n.hub.Drain()
	if n.peers != nil {
		n.peers.places.empty(failed, n.cfg.DrainTimeout)
	}
	n.notify.Drain()
	var devices errgroup.Group
	devices.Go(func() error { return n.signalr.Shutdown(drain) })
	var posts errgroup.Group
	posts.Go(func() error { return n.front.Shutdown(drain) })
	if err := errors.Join(n.http.Shutdown(drain), posts.Wait()); err != nil {
		n.log.Warn("requests under way were cut off", "err", err)
		n.http.Close()
	}
	if err := devices.Wait(); err != nil {
		n.log.Warn("devices were cut off", "err", err)
	}
	stop.ended("requests")
	if n.peers != nil {
		n.giveWay(drain)
		// Its shards go to others one by one, and what is in flight from them to devices elsewhere with them.
		if err := n.peers.leases.Drain(drain); err != nil {
			n.log.Warn("not all shards were handed over; others take them", "err", err)
		}
		stopTalk()
		stop.ended("shards")
	}
	stopDispatch()
	if !stop.await("storing", dispatched, min(limits.storing, stop.left(limits.store)), running.left) {
		n.dispatch.Cut()
	}
	leave()
	stopAppend()
	stop.await("leaving", running.allEnded(), stop.left(limits.leave), running.left)
	failure := running.failure() // and not what ends because the node is closed under it
	err := n.closeWithin(stop.left(limits.close))
	stop.ended("closing")
	if errors.Is(err, errNotClosed) {
		n.log.Warn("the time of the stop is over: the journal, the NATS server or the store is left to the end of the process, and nothing accepted is lost")
		err = nil
	}
	stop.done()
	return errors.Join(failure, err)
}

var errNotClosed = errors.New("not everything was closed in time")

// closeWithin closes the node. Its error is errNotClosed if that takes longer than it may; it goes on then.
func (n *Node) closeWithin(limit time.Duration) error {
	closed := make(chan error, 1)
	go func() { closed <- n.Close() }()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-closed:
		return err
	case <-timer.C:
		return errNotClosed
	}
}

// announce gives balancers the time to learn of a stop in order, unless a part has failed.
func (n *Node) announce(failed context.Context) {
	if n.cfg.DrainDelay <= 0 {
		return
	}
	wait := time.NewTimer(n.cfg.DrainDelay)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-failed.Done():
	}
}

// Close releases everything. Run does it by itself.
func (n *Node) Close() error {
	var errs []error
	if n.listener != nil {
		// Closed already after Run.
		_ = n.listener.Close()
	}
	if n.debug != nil {
		errs = append(errs, n.debug.Close())
	}
	if n.peers != nil {
		n.peers.bus.Close()
	}
	if n.journal != nil {
		errs = append(errs, n.journal.Close())
	}
	var beside errgroup.Group // the server and the store do not need each other
	if n.opening != nil {
		beside.Go(func() error {
			n.opening.close()
			return n.store.Close()
		})
	}
	if n.nats != nil {
		errs = append(errs, n.nats.Close())
	}
	errs = append(errs, beside.Wait())
	return errors.Join(errs...)
}
