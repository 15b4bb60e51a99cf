package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar/internal/autoscale"
	"github.com/esh3artech/esh3ar/internal/autoscale/policy"
	"github.com/esh3artech/esh3ar/internal/cluster"
	"github.com/esh3artech/esh3ar/internal/freeport"
)

// autoscaleCmd adds nodes to a deployment and drains them.
type autoscaleCmd struct {
	NATSURL []string `name:"nats-url" env:"ESH3AR_AUTOSCALE_NATS_URL,ESH3AR_NATS_URL" group:"Deployment" required:"" placeholder:"URL" help:"The client-listen of the nodes that keep the journal, or the NATS servers that do."`
	Secret  string   `name:"cluster-secret" env:"ESH3AR_AUTOSCALE_CLUSTER_SECRET,ESH3AR_CLUSTER_SECRET" group:"Deployment" placeholder:"SECRET" help:"Secret that the nodes tell each other."`
	Cert    string   `name:"cluster-cert" env:"ESH3AR_AUTOSCALE_CLUSTER_CERT,ESH3AR_CLUSTER_CERT" group:"Deployment" placeholder:"FILE" help:"Certificate for TLS to the nodes."`
	Key     string   `name:"cluster-key" env:"ESH3AR_AUTOSCALE_CLUSTER_KEY,ESH3AR_CLUSTER_KEY" group:"Deployment" placeholder:"FILE" help:"Its private key."`
	CA      string   `name:"cluster-ca" env:"ESH3AR_AUTOSCALE_CLUSTER_CA,ESH3AR_CLUSTER_CA" group:"Deployment" placeholder:"FILE" help:"Certificate authority of the nodes' certificates."`
	Name    string   `name:"name" env:"ESH3AR_AUTOSCALE_NAME" group:"Deployment" help:"Name of this autoscaler, to show; empty takes the host's name and the process's number."`

	Min          int           `name:"min" env:"ESH3AR_AUTOSCALE_MIN" group:"Scaling" default:"0" help:"Least number of elastic nodes. Those that keep the journal do not count."`
	Max          int           `name:"max" env:"ESH3AR_AUTOSCALE_MAX" group:"Scaling" default:"5" help:"Greatest number of elastic nodes."`
	High         float64       `name:"high" env:"ESH3AR_AUTOSCALE_HIGH" group:"Scaling" default:"0.8" help:"Share of capacity at which nodes are added."`
	Target       float64       `name:"target" env:"ESH3AR_AUTOSCALE_TARGET" group:"Scaling" default:"0.6" help:"Share of capacity that added nodes are to bring it to."`
	Low          float64       `name:"low" env:"ESH3AR_AUTOSCALE_LOW" group:"Scaling" default:"0.5" help:"Share of capacity that the rest may be loaded to when a node is removed."`
	Smooth       time.Duration `name:"smooth" env:"ESH3AR_AUTOSCALE_SMOOTH" group:"Scaling" default:"10s" help:"Time over which loads are averaged."`
	LowFor       time.Duration `name:"low-for" env:"ESH3AR_AUTOSCALE_LOW_FOR" group:"Scaling" default:"5m" help:"How long the load must be low before a node is removed."`
	UpCooldown   time.Duration `name:"up-cooldown" env:"ESH3AR_AUTOSCALE_UP_COOLDOWN" group:"Scaling" default:"30s" help:"Least time between two additions."`
	DownCooldown time.Duration `name:"down-cooldown" env:"ESH3AR_AUTOSCALE_DOWN_COOLDOWN" group:"Scaling" default:"5m" help:"Least time from any change to a removal."`
	StartWithin  time.Duration `name:"start-within" env:"ESH3AR_AUTOSCALE_START_WITHIN" group:"Scaling" default:"2m" help:"How long a node that was asked for counts as capacity to come."`

	CapacityConnections float64       `name:"capacity-connections" env:"ESH3AR_AUTOSCALE_CAPACITY_CONNECTIONS" group:"Capacity of a node" default:"0" help:"Connections that a node can hold; 0 takes what each says."`
	CapacityCPU         float64       `name:"capacity-cpu" env:"ESH3AR_AUTOSCALE_CAPACITY_CPU" group:"Capacity of a node" default:"0" help:"Processors that a node can use; 0 takes what each says. Set it for nodes that share a machine."`
	CapacityLatency     time.Duration `name:"capacity-latency" env:"ESH3AR_AUTOSCALE_CAPACITY_LATENCY" group:"Capacity of a node" default:"0s" help:"Mean time that accepting should take at most; 0 takes each node's accept-latency."`
	CapacityLag         time.Duration `name:"capacity-lag" env:"ESH3AR_AUTOSCALE_CAPACITY_LAG" group:"Capacity of a node" default:"10s" help:"How far the reading of the journal may be behind."`
	CapacityQueue       float64       `name:"capacity-queue" env:"ESH3AR_AUTOSCALE_CAPACITY_QUEUE" group:"Capacity of a node" default:"20000" help:"Recipients that may wait for a turn."`

	Provider string `name:"provider" env:"ESH3AR_AUTOSCALE_PROVIDER" group:"Provider" enum:"process,kubernetes,exec" required:"" help:"What starts and drains nodes: ${enum}."`

	ProcessDir    string        `name:"process-dir" env:"ESH3AR_AUTOSCALE_PROCESS_DIR" group:"Provider process" default:"autoscale" help:"Directory for the nodes' data, logs and what is known of them. Autoscalers on one machine share it."`
	ProcessPrefix string        `name:"process-prefix" env:"ESH3AR_AUTOSCALE_PROCESS_PREFIX" group:"Provider process" placeholder:"NAME" help:"What the nodes' names begin with, unlike on any other machine; empty takes elastic and the host's name."`
	ProcessListen string        `name:"process-listen" env:"ESH3AR_AUTOSCALE_PROCESS_LISTEN" group:"Provider process" default:"127.0.0.1:0" help:"Address that the nodes listen on, at which others reach them; port 0 takes a free one for each."`
	ProcessConfig string        `name:"process-config" env:"ESH3AR_AUTOSCALE_PROCESS_CONFIG" group:"Provider process" placeholder:"FILE" help:"Configuration file of the nodes. Environment variables of esh3ar serve are passed on to them as well."`
	ProcessArgs   []string      `name:"process-arg" sep:"none" group:"Provider process" placeholder:"ARG" help:"Further argument of esh3ar serve, as in --process-arg=--device-url=http://{listen}; {listen} and {name} are replaced."`
	ProcessDrain  time.Duration `name:"process-drain" env:"ESH3AR_AUTOSCALE_PROCESS_DRAIN" group:"Provider process" default:"1m" help:"How long a node may take to end after SIGTERM before it is killed. Longer than its drain-delay, one and a half times its drain-timeout and 2s."`
	ProcessStop   bool          `name:"process-stop" env:"ESH3AR_AUTOSCALE_PROCESS_STOP" group:"Provider process" help:"Drain all nodes when this autoscaler is stopped, rather than leave them to the next."`

	KubeKind      string        `name:"kubernetes-kind" env:"ESH3AR_AUTOSCALE_KUBERNETES_KIND" group:"Provider kubernetes" enum:"statefulset,deployment" default:"statefulset" help:"What the elastic nodes are: ${enum}."`
	KubeObject    string        `name:"kubernetes-object" env:"ESH3AR_AUTOSCALE_KUBERNETES_OBJECT" group:"Provider kubernetes" placeholder:"NAME" help:"Its name."`
	KubeNamespace string        `name:"kubernetes-namespace" env:"ESH3AR_AUTOSCALE_KUBERNETES_NAMESPACE" group:"Provider kubernetes" placeholder:"NAME" help:"Its namespace; empty takes the service account's."`
	KubeTimeout   time.Duration `name:"kubernetes-timeout" env:"ESH3AR_AUTOSCALE_KUBERNETES_TIMEOUT" group:"Provider kubernetes" default:"10s" help:"How long the API server may take to answer."`

	ExecCommand string        `name:"exec-command" env:"ESH3AR_AUTOSCALE_EXEC_COMMAND" group:"Provider exec" placeholder:"FILE" help:"Program that is run for each decision, with the order in its environment."`
	ExecArgs    []string      `name:"exec-arg" sep:"none" group:"Provider exec" placeholder:"ARG" help:"Its argument; the flag may be given again and again."`
	ExecTimeout time.Duration `name:"exec-timeout" env:"ESH3AR_AUTOSCALE_EXEC_TIMEOUT" group:"Provider exec" default:"30s" help:"How long it may take."`

	Admin     string     `name:"admin-listen" env:"ESH3AR_AUTOSCALE_ADMIN_LISTEN" group:"Process" default:"127.0.0.1:8002" help:"Address for /metrics, /healthz, /readyz and /decisions; empty for none. Keep it private."`
	AddrFile  string     `name:"addr-file" env:"ESH3AR_AUTOSCALE_ADDR_FILE" group:"Process" placeholder:"FILE" help:"Write the admin address to this file once it is bound."`
	LogLevel  slog.Level `name:"log-level" env:"ESH3AR_AUTOSCALE_LOG_LEVEL" group:"Process" default:"info" help:"Least level that is logged: debug, info, warn or error."`
	LogFormat string     `name:"log-format" env:"ESH3AR_AUTOSCALE_LOG_FORMAT" group:"Process" enum:"text,json" default:"text" help:"Form of the log: ${enum}."`
}

// autoscalePrefix is what the environment variables of this command begin with.
const autoscalePrefix = envPrefix + "AUTOSCALE_"

// Help is the longer text of --help.
func (c *autoscaleCmd) Help() string {
	return `Watches how loaded the nodes of a deployment are, adds elastic nodes at 80 % of capacity and drains them after a long
time of low load. The nodes that keep the journal are left alone. Several autoscalers may run; one leads, and another takes
over when it is gone.

    esh3ar autoscale --nats-url nats://10.0.0.1:4222,nats://10.0.0.2:4222 --max 8 --provider kubernetes --kubernetes-object esh3ar-elastic
    curl -s http://127.0.0.1:8002/decisions

docs/autoscaling.md says how it decides and what the providers do.`
}

// Run scales until ctx ends.
func (c *autoscaleCmd) Run(ctx context.Context, std stdio) error {
	handler := slog.Handler(slog.NewTextHandler(std.err, &slog.HandlerOptions{Level: c.LogLevel}))
	if c.LogFormat == "json" {
		handler = slog.NewJSONHandler(std.err, &slog.HandlerOptions{Level: c.LogLevel})
	}
	log := slog.New(handler)
	o, stop, err := c.options(log)
	if err != nil {
		return err
	}
	a, err := autoscale.New(ctx, o)
	if err != nil {
		return err
	}
	if admin := a.AdminAddr(); admin != nil {
		fmt.Fprintf(std.out, "Esh3ar scales from %d to %d elastic nodes\n  Decisions  http://%s/decisions\n  Metrics    http://%[3]s/metrics\n", c.Min, c.Max, admin)
		if c.AddrFile != "" {
			if err := writeWhole(c.AddrFile, admin.String()+"\n"); err != nil {
				return errors.Join(err, a.Close())
			}
		}
	}
	err = a.Run(ctx)
	return errors.Join(err, stop(context.WithoutCancel(ctx)))
}

// options checks the flags and returns what they say, and what is to be done at the end.
func (c *autoscaleCmd) options(log *slog.Logger) (o autoscale.Options, stop func(context.Context) error, err error) {
	stop = func(context.Context) error { return nil }
	host, err := os.Hostname()
	if err != nil {
		return o, stop, err
	}
	external := cluster.External{URLs: c.NATSURL, Token: c.Secret}
	if (c.Cert == "") != (c.Key == "") {
		return o, stop, errors.New("--cluster-cert and --cluster-key go together")
	}
	if c.Cert != "" || c.CA != "" {
		external.TLS = &cluster.TLSFiles{Cert: c.Cert, Key: c.Key, CA: c.CA}
	}
	o = autoscale.Options{NATS: external, Name: c.Name, Rules: c.rules(), Logger: log, Admin: c.Admin}
	if o.Name == "" {
		o.Name = fmt.Sprintf("%s-%d", host, os.Getpid())
	}
	switch c.Provider {
	case "process":
		p, err := c.process(host, log)
		if err != nil {
			return o, stop, err
		}
		o.Provider = p
		if c.ProcessStop {
			stop = p.Stop
		}
	case "kubernetes":
		k, err := autoscale.KubernetesOptions{
			Kind: c.KubeKind, Object: c.KubeObject, Namespace: c.KubeNamespace, Timeout: c.KubeTimeout,
		}.InCluster()
		if err != nil {
			return o, stop, err
		}
		if o.Provider, err = autoscale.NewKubernetes(k); err != nil {
			return o, stop, err
		}
	default:
		e := autoscale.Exec{Command: append([]string{c.ExecCommand}, c.ExecArgs...), Timeout: c.ExecTimeout}
		if err := e.Check(); err != nil {
			return o, stop, fmt.Errorf("%w: --exec-command names it", err)
		}
		o.Provider, o.ActWithin = e, c.ExecTimeout+time.Second
	}
	return o, stop, nil
}

// rules are what the flags say of when nodes come and go.
func (c *autoscaleCmd) rules() policy.Rules {
	r := policy.DefaultRules()
	r.Min, r.Max = c.Min, c.Max
	r.High, r.Target, r.Low = c.High, c.Target, c.Low
	r.Smooth, r.LowFor, r.StartWithin = c.Smooth, c.LowFor, c.StartWithin
	r.UpCooldown, r.DownCooldown = c.UpCooldown, c.DownCooldown
	if c.Provider == "process" {
		r.DrainWithin = c.ProcessDrain + 10*time.Second
	}
	r.Capacity = policy.Capacity{
		Connections: c.CapacityConnections, Processors: c.CapacityCPU, AcceptLatency: c.CapacityLatency,
		Lag: c.CapacityLag, Queue: c.CapacityQueue,
	}
	return r
}

// notInNames is what host names may hold and nodes' names may not.
var notInNames = regexp.MustCompile(`[^A-Za-z0-9_-]+`)

// process is the provider that runs this program.
func (c *autoscaleCmd) process(host string, log *slog.Logger) (*autoscale.Process, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	prefix := c.ProcessPrefix
	if prefix == "" {
		prefix = "elastic-" + notInNames.ReplaceAllString(host, "-")
	}
	dir, err := filepath.Abs(c.ProcessDir)
	if err != nil {
		return nil, err
	}
	shared, err := c.nodeArgs()
	if err != nil {
		return nil, err
	}
	// What is for the nodes is in variables of their own: those of this command they do not know.
	env := environmentWithout(autoscalePrefix)
	if c.Secret != "" {
		env = append(slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, envPrefix+"CLUSTER_SECRET=") }), envPrefix+"CLUSTER_SECRET="+c.Secret)
	}
	return autoscale.NewProcess(autoscale.ProcessOptions{
		Dir: dir, Prefix: prefix, DrainTimeout: c.ProcessDrain, Logger: log,
		Command: func(ctx context.Context, name, data string) ([]string, []string, error) {
			listen, err := freeport.Check(ctx, c.ProcessListen)
			if err != nil {
				return nil, nil, fmt.Errorf("an address for it: %w", err)
			}
			line := []string{program, "serve", "--listen", listen, "--data", data, "--node-name", name}
			line = append(line, shared...)
			replace := strings.NewReplacer("{listen}", listen, "{name}", name)
			for _, arg := range c.ProcessArgs {
				line = append(line, replace.Replace(arg))
			}
			return line, env, nil
		},
	})
}

// nodeArgs are the arguments that all nodes have in common. Files are named from the root, because nodes run elsewhere.
func (c *autoscaleCmd) nodeArgs() ([]string, error) {
	args := []string{"--nats-url", strings.Join(c.NATSURL, ",")}
	for _, f := range []struct{ flag, name string }{
		{"--config", c.ProcessConfig}, {"--cluster-cert", c.Cert}, {"--cluster-key", c.Key}, {"--cluster-ca", c.CA},
	} {
		if f.name == "" {
			continue
		}
		name, err := filepath.Abs(f.name)
		if err != nil {
			return nil, err
		}
		args = append(args, f.flag, name)
	}
	return args, nil
}
