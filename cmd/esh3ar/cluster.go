//go:build unix

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/freeport"
	"github.com/esh3artech/esh3ar/internal/store/postgres/pgtest"
)

// clusterCmd runs a cluster of throw-away data on this machine, to try.
type clusterCmd struct {
	Listen       string        `default:"127.0.0.1:8000" help:"Address of the balancer; port 0 takes a free one. Unless it is of this machine alone, devices stay behind the balancer."`
	Nodes        int           `default:"3" enum:"3,5" help:"How many nodes: 3 or 5."`
	MaxNodes     int           `name:"max-nodes" default:"0" help:"How many nodes there may be. If it is more than --nodes, an autoscaler adds nodes under load and drains them after it."`
	Shards       int           `default:"6" help:"Number of shards."`
	RestartAfter time.Duration `default:"10s" help:"How long after its end a node is started again."`
	LogLevel     slog.Level    `default:"warn" help:"Least level that the processes log: debug, info, warn or error."`
	AddrFile     string        `name:"addr-file" placeholder:"FILE" help:"Write the balancer's address to this file once all is ready."`
}

// Help is the longer text of --help.
func (c *clusterCmd) Help() string {
	return `Runs several nodes, a PostgreSQL and a balancer as processes on this machine and prints what to paste. Kill a
node to see the others go on: it comes back by itself. Ctrl-C ends all of them and removes what they stored.

It needs PostgreSQL's server programs, on Debian from: apt-get install postgresql.
With --max-nodes an autoscaler adds nodes while those that there are have too much to do.

docs/cluster.md says how to run nodes on machines of their own, docs/autoscaling.md how nodes are added.`
}

// clusterStart bounds how long a process may take to be ready.
const clusterStart = 2 * time.Minute

// Run starts the processes, says how to reach them, and keeps them running until ctx ends. They are ended in the
// order in which they need each other: the autoscaler with the nodes that it added, the balancer, the nodes, the
// database.
func (c *clusterCmd) Run(ctx context.Context, std stdio) (err error) {
	if c.MaxNodes != 0 && c.MaxNodes < c.Nodes {
		return fmt.Errorf("--max-nodes %d: must be --nodes, %d, or more", c.MaxNodes, c.Nodes)
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	// A second Ctrl-C does not cut the end short: it is bounded, and would leave files behind.
	more := make(chan os.Signal, 1)
	signal.Notify(more, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(more)
	dir, err := os.MkdirTemp("", "esh3ar-cluster-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	lines := &lineWriter{out: std.err}
	fmt.Fprintln(lines, "PostgreSQL is being started")
	db, err := pgtest.Start("shared_buffers=64MB", "max_connections=300")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()

	l := localCluster{clusterCmd: c, program: program, dir: dir, key: esh3ar.NewKey(), adminKey: rand.Text(), lines: lines}
	if err := l.plan(ctx, db.URL("postgres")); err != nil {
		return err
	}
	g, running := errgroup.WithContext(context.WithoutCancel(ctx))
	nodesCtx, stopNodes := context.WithCancel(running)
	defer stopNodes()
	balancerCtx, stopBalancer := context.WithCancel(running)
	defer stopBalancer()
	scalerCtx, stopScaler := context.WithCancel(running)
	defer stopScaler()
	wanted, cancel := context.WithCancel(running)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()

	fmt.Fprintf(lines, "%d nodes and a balancer are being started\n", c.Nodes)
	for _, n := range l.nodes {
		g.Go(func() error { return n.keep(nodesCtx) })
	}
	err = l.nodesReady(wanted)
	balanced := make(chan struct{})
	g.Go(func() error {
		defer close(balanced)
		return l.balancer.keep(balancerCtx)
	})
	if err == nil {
		err = ready(wanted, l.balancer, l.admin)
	}
	scaled := make(chan struct{})
	g.Go(func() error {
		defer close(scaled)
		if l.scaler == nil {
			return nil
		}
		return l.scaler.keep(scalerCtx)
	})
	if err == nil && l.scaler != nil {
		err = ready(wanted, l.scaler, l.scaler.address)
	}
	if err == nil {
		l.greet(std.out)
		if c.AddrFile != "" {
			err = writeWhole(c.AddrFile, l.balancer.address+"\n")
		}
	}
	if err == nil {
		<-wanted.Done()
	}
	if ctx.Err() != nil {
		err = nil // nothing failed but the waiting
		fmt.Fprintln(lines, "all is being ended")
	}
	stopScaler()
	<-scaled
	stopBalancer()
	<-balanced
	stopNodes()
	if failed := g.Wait(); failed != nil {
		return failed // and what was waited for with it
	}
	return err
}

// localCluster is the processes and what they have in common.
type localCluster struct {
	*clusterCmd
	program, dir  string
	key, adminKey string
	lines         *lineWriter

	nodes    []*process
	balancer *process
	admin    string   // address of the balancer's own routes
	scaler   *process // nil for none
}

// plan chooses addresses and says how each process is started.
func (l *localCluster) plan(ctx context.Context, store string) error {
	balancer, err := freeport.Check(ctx, l.Listen)
	if err != nil {
		return fmt.Errorf("the balancer's address: %w; give another with --listen", err)
	}
	free, err := freeport.Take(ctx, "127.0.0.1", 3*l.Nodes+2)
	if err != nil {
		return err
	}
	l.admin = free[3*l.Nodes]
	listens, routes, clients := free[:l.Nodes], free[l.Nodes:2*l.Nodes], free[2*l.Nodes:3*l.Nodes]
	env := environmentWithout(envPrefix)
	balance := []string{"balance", "--listen", balancer, "--admin-listen", l.admin, "--slow-start", "1s", "--log-level", l.LogLevel.String()}
	secrets := slices.Concat(env, []string{
		envPrefix + "BOOTSTRAP_KEY=" + l.key, envPrefix + "ADMIN_KEY=" + l.adminKey,
		envPrefix + "JWT_SECRET=" + rand.Text() + rand.Text(), envPrefix + "CLUSTER_SECRET=" + rand.Text(),
	})
	// What is the same for nodes that are added later.
	shared := []string{
		"--store", store, "--shards", fmt.Sprint(l.Shards), "--cluster-name", "local",
		"--trusted-proxies", "127.0.0.1/32", "--log-level", l.LogLevel.String(),
	}
	// The nodes listen on this machine alone. Devices of others have to pass through the balancer.
	deviceURL := func(string) []string { return nil }
	if isLoopback(balancer) {
		deviceURL = func(listen string) []string { return []string{"--device-url", "http://" + listen} }
	}
	for i, listen := range listens {
		name := fmt.Sprint("node-", i+1)
		l.nodes = append(l.nodes, l.process(name, listen, secrets, slices.Concat([]string{
			"serve", "--listen", listen, "--data", filepath.Join(l.dir, name), "--node-name", name,
			"--cluster-listen", routes[i], "--routes", strings.Join(routes, ","), "--client-listen", clients[i],
		}, shared, deviceURL(listen))...))
		balance = append(balance, "--discover", "http://"+listen)
	}
	l.balancer = l.process("balancer", balancer, env, balance...)
	if l.MaxNodes > l.Nodes {
		l.scaler = l.autoscaler(free[3*l.Nodes+1], clients, secrets, slices.Concat(shared, deviceURL("{listen}")))
	}
	return nil
}

// isLoopback reports whether only this machine reaches that address.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// autoscaler is the process that adds nodes with these arguments. The nodes share the machine with the database, the
// balancer and what makes the load: a third of the processors is taken for the capacity of those that are always there. It is
// quicker to remove nodes than it would be in earnest.
func (l *localCluster) autoscaler(address string, clients, env, args []string) *process {
	line := []string{
		"autoscale", "--admin-listen", address, "--nats-url", "nats://" + strings.Join(clients, ",nats://"), "--max", fmt.Sprint(l.MaxNodes - l.Nodes),
		"--capacity-cpu", fmt.Sprint(float64(runtime.NumCPU()) / float64(3*l.Nodes)), "--low-for", "1m", "--down-cooldown", "30s",
		"--provider", "process", "--process-dir", filepath.Join(l.dir, "autoscale"), "--process-prefix", "elastic", "--process-stop",
		"--log-level", min(l.LogLevel, slog.LevelInfo).String(), // its decisions are what there is to see
	}
	for _, arg := range args {
		line = append(line, "--process-arg="+arg)
	}
	return l.process("autoscaler", address, env, line...)
}

func (l *localCluster) process(name, address string, env []string, args ...string) *process {
	return &process{name: name, address: address, program: l.program, args: args, env: env, dir: l.dir, restartAfter: l.RestartAfter, lines: l.lines}
}

// nodesReady waits until all nodes are ready. From then on one that ends is started again.
func (l *localCluster) nodesReady(ctx context.Context) error {
	for _, n := range l.nodes {
		if err := awaitReady(ctx, n.address); err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
	}
	for _, n := range l.nodes {
		n.keeping.Store(true)
	}
	return nil
}

// ready is nodesReady of a process of which that address tells.
func ready(ctx context.Context, p *process, address string) error {
	if err := awaitReady(ctx, address); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	p.keeping.Store(true)
	return nil
}

// awaitReady asks until the process there is ready. Its error is why ctx ended, or that the time is up.
func awaitReady(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, clusterStart, fmt.Errorf("not ready within %s", clusterStart))
	defer cancel()
	const every = 50 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	health := healthCmd{Timeout: 5 * time.Second}
	for {
		if _, err := health.ask(ctx, "http://"+address+"/readyz"); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// greet prints how to use the cluster.
func (l *localCluster) greet(w io.Writer) {
	fmt.Fprintf(w, `
%[1]d nodes, a PostgreSQL and a balancer run on this machine. Ctrl-C ends all and removes what they stored.

  API key    %[2]s
  Receive    %[3]s listen --url %[4]s --key %[2]s --as alice
  Send       curl -i %[4]s/v1/messages -H "Authorization: Bearer %[2]s" -H 'Content-Type: application/json' -d '{"to": "alice", "content": "Hello"}'
  Or         %[3]s send --url %[4]s --key %[2]s --wait delivered alice "Hello"
  Health     %[3]s top --url %[4]s --admin-key %[5]s
  Clients    %[3]s clients ls --url %[4]s --admin-key %[5]s
  Balancer   curl -s http://%[6]s/nodes

`, l.Nodes, l.key, os.Args[0], "http://"+l.balancer.address, l.adminKey, l.admin)
	if l.scaler != nil {
		fmt.Fprintf(w, "  Scaling    curl -s http://%s/decisions\n  Load       %s bench load --url http://%s --key %s --clients 200 --duration 2m\n\n",
			l.scaler.address, os.Args[0], l.balancer.address, l.key)
	}
	for _, n := range l.nodes {
		fmt.Fprintf(w, "  %-10s http://%s   to see the others do its work: kill -9 %d\n", n.name, n.address, n.pid.Load())
	}
	fmt.Fprintf(w, "\nA node that ends is started again after %s.\n", l.RestartAfter)
}
