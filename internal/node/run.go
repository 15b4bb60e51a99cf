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
// handed back; then dispatch stores what it knows and ends, which needs the store; then the journal,
// which all before may still have used; the store last.
//
// Requests and devices have the drain timeout, which begins after the drain delay, and dispatch has half of it again for what
// it stores last; each has at least a second. So a stop takes at most the drain delay, one and a half times the drain
// timeout, and the closing of the journal and the store. What does not finish in time is not lost: it is read again at the next
// start, here or by the shard's next owner.
func (n *Node) Run(ctx context.Context) error {
	// The parts outlive ctx until it is their turn.
	base := context.WithoutCancel(ctx)
	appendCtx, stopAppend := context.WithCancel(base)
	defer stopAppend()
	dispatchCtx, stopDispatch := context.WithCancel(base)
	defer stopDispatch()

	g, failed := errgroup.WithContext(base)
	dispatched := make(chan struct{})
	g.Go(func() error {
		if err := n.appender.Run(appendCtx); err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("journal: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		defer close(dispatched)
		return n.dispatch.Run(dispatchCtx, max(n.cfg.DrainTimeout/2, time.Second))
	})
	joinedCtx, leave := context.WithCancel(base)
	defer leave()
	talkCtx, stopTalk := context.WithCancel(base)
	defer stopTalk()
	if n.peers != nil {
		g.Go(func() error { return n.peers.run(talkCtx, joinedCtx, n) })
	}
	g.Go(n.front.Run)
	g.Go(n.serve)
	g.Go(func() error { return n.notify.Run(dispatchCtx) })
	g.Go(func() error { return n.webhooks.Run(dispatchCtx) })
	g.Go(func() error { return n.api.Run(dispatchCtx) })
	g.Go(func() error { return n.opening.wait(dispatchCtx) })
	g.Go(func() error { return n.keys.run(dispatchCtx) })
	g.Go(func() error { return n.retain(dispatchCtx) })
	g.Go(func() error { return n.accepting.run(dispatchCtx) })
	g.Go(func() error { return n.memory.run(dispatchCtx) })
	g.Go(func() error { return n.clock.Run(dispatchCtx) })
	g.Go(func() error { return n.health.Run(dispatchCtx) })
	if n.cert != nil {
		g.Go(func() error { return n.watchCertificate(dispatchCtx) })
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
	drain, cancel := context.WithTimeout(base, max(n.cfg.DrainTimeout, time.Second))
	defer cancel()
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
	if n.peers != nil {
		// Its shards go to others one by one, and what is in flight from them to devices elsewhere with them.
		if err := n.peers.leases.Drain(drain); err != nil {
			n.log.Warn("not all shards were handed over; others take them", "err", err)
		}
		stopTalk()
	}
	stopDispatch()
	<-dispatched
	leave()
	stopAppend()
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	if cerr := n.Close(); cerr != nil {
		err = errors.Join(err, cerr)
	}
	n.log.Info("stopped")
	return err
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
	if n.nats != nil {
		errs = append(errs, n.nats.Close())
	}
	if n.opening != nil {
		n.opening.close()
		errs = append(errs, n.store.Close())
	}
	return errors.Join(errs...)
}
