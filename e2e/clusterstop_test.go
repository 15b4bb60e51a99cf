package e2e

import (
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"
)

// stopTook returns how long its stop took the node that has ended, by its own log.
func (s *server) stopTook() time.Duration {
	s.t.Helper()
	m := regexp.MustCompile(`msg=stopped took=(\S+)`).FindStringSubmatch(s.tail(1 << 20))
	if m == nil {
		s.t.Errorf("a node does not say how long its stop took\n%s", s.tail(4<<10))
		return 0
	}
	took, err := time.ParseDuration(m[1])
	if err != nil {
		s.t.Error(err)
	}
	return took
}

// All nodes of a cluster are told to stop in the same moment, under load, so that the last of them have no majority of
// servers to hand anything over to; then one is when the others have just been killed, and one when they hang, connected and
// without an answer. Each ends in the time that operators are told, with status 0, and the next start finds everything.
func TestClusterStopsAtOnce(t *testing.T) {
	t.Parallel()
	const (
		drain = 4 * time.Second
		most  = drain + drain/2 + 2*time.Second // as docs/operations.md has it
		slack = time.Second                     // for timers on a busy machine: a stop may use all of that up
		gone  = 30 * time.Second                // from outside, where the signal and the end of the process wait for a processor, too
	)
	c := startCluster(t, append(clusterArgs(), "--drain-timeout", drain.String(), "--publish-timeout", "2s", "--log-level", "info")...)
	stop := func(r *crashRun, servers ...*server) {
		t.Helper()
		began := time.Now()
		for _, s := range servers {
			signal(t, s, syscall.SIGTERM)
		}
		var all sync.WaitGroup
		for _, s := range servers {
			all.Go(func() {
				select {
				case <-s.gone:
				case <-time.After(gone):
					t.Errorf("a node is not gone %s after the signal\n%s", time.Since(began), s.tail(4<<10))
					s.kill()
					return
				}
				took := s.stopTook()
				t.Logf("a node stopped within %s, of which it says %s", time.Since(began), took)
				if took > most+slack {
					t.Errorf("a node took %s to stop\n%s", took, s.tail(4<<10))
				}
				if s.err != nil {
					t.Errorf("a node ended with %v\n%s", s.err, s.tail(4<<10))
				}
			})
		}
		all.Wait()
		r.serve(nil)
	}
	start := func(r *crashRun) {
		t.Helper()
		for i := range c.servers {
			c.launch(i)
		}
		for _, s := range c.servers {
			if err := s.ready(); err != nil {
				t.Fatal(err)
			}
		}
		r.serve(c.servers...)
	}
	clusterLoad(t, c, func(r *crashRun) {
		r.accepts(300)
		stop(r, c.servers...)
		start(r)
		r.accepts(300)
		c.servers[0].kill()
		c.servers[1].kill()
		stop(r, c.servers[2])
		start(r)
		r.accepts(100)
		signal(t, c.servers[0], syscall.SIGSTOP)
		signal(t, c.servers[1], syscall.SIGSTOP)
		stop(r, c.servers[2])
		c.servers[0].kill()
		c.servers[1].kill()
		start(r)
		r.accepts(100)
	})
	stop(&crashRun{t: t, ledger: newLedger()}, c.servers...)
}
