// Package node puts the parts of one Esh3ar server together and runs them.
package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/fair"
	"github.com/esh3artech/esh3ar/internal/ingest"
	"github.com/esh3artech/esh3ar/internal/peer"
)

// Config is every option of a server. DefaultConfig returns one that works; Validate says what is
// wrong with one that does not.
//
// The struct tags are the options' names, groups and help texts as users meet them on the command
// line, in the environment, in the configuration file and in docs/operations.md. Renaming one breaks
// deployments.
type Config struct {
	Listen         string        `name:"listen" group:"Network" help:"Address to serve on; port 0 takes a free one."`
	TLSCert        string        `name:"tls-cert" group:"Network" placeholder:"FILE" help:"Serve TLS (HTTP/1.1) with this certificate chain, in PEM. It is read again when it changes."`
	TLSKey         string        `name:"tls-key" group:"Network" placeholder:"FILE" help:"The certificate's key, in PEM."`
	DebugListen    string        `name:"debug-listen" group:"Network" placeholder:"HOST:PORT" help:"Address to serve the Go profiler on; empty for none. Keep it private."`
	AllowedOrigins []string      `name:"allowed-origins" group:"Network" placeholder:"ORIGIN" help:"Web origins whose pages may call the hubs and the API, such as https://app.example.com; * for any."`
	TrustedProxies []string      `name:"trusted-proxies" group:"Network" placeholder:"CIDR" help:"Networks of proxies and balancers whose X-Forwarded-For and PROXY protocol (version 1 or 2) are believed; who guesses API keys is slowed down by that address."`
	MaxConnections int           `name:"max-connections" group:"Network" help:"Connections open at one time; 0 takes what the process's file limit allows."`
	HeaderTimeout  time.Duration `name:"header-timeout" group:"Network" help:"How long a client may take to send a request's header."`
	BodyTimeout    time.Duration `name:"body-timeout" group:"Network" help:"How long a client may take to send a request's body."`
	IdleTimeout    time.Duration `name:"idle-timeout" group:"Network" help:"How long a kept-alive connection may idle between requests."`
	DrainDelay     time.Duration `name:"drain-delay" group:"Network" help:"How long a stop lets everything go on, but for /readyz, which says no: so that balancers learn of it first. Behind one, 2s."`
	DrainTimeout   time.Duration `name:"drain-timeout" group:"Network" help:"How long a stop may take to finish what is under way."`

	BootstrapKey Secret `name:"bootstrap-key" group:"Identity" placeholder:"KEY" help:"API key of the development client; generated into the data directory if empty."`
	AdminKey     Secret `name:"admin-key" group:"Identity" placeholder:"KEY" help:"Key of the admin API; generated into the data directory if empty. All nodes of a deployment need the same."`
	JWTSecret    Secret `name:"jwt-secret" group:"Identity" placeholder:"SECRET" help:"HS256 secret of device tokens; generated into the data directory if empty."`

	AcceptLatency time.Duration `name:"accept-latency" group:"Admission" help:"How long it should take to make a message durable, on average. So many messages are taken at one time as can be at about that latency; more get 503, lower tiers first."`
	AdmissionWait time.Duration `name:"admission-wait" group:"Admission" help:"How long a request over its client's rate waits before it gets 429; 0 for not at all."`

	Data              string        `name:"data" group:"Storage" help:"Data directory: the journal, the embedded store and generated secrets."`
	Store             StoreURL      `name:"store" group:"Storage" placeholder:"URL" help:"Message store: sqlite:PATH or postgres://…; empty for a SQLite file in the data directory."`
	Shards            int           `name:"shards" group:"Storage" help:"Number of shards. Fixed when a deployment is created."`
	JournalSize       Bytes         `name:"journal-size" group:"Storage" help:"Size at which the journal refuses more; reached only if the store is away for long."`
	JournalKeep       time.Duration `name:"journal-keep" group:"Storage" help:"How long the journal keeps what is already stored, to replay it to a database that lost its last commits."`
	DiskReserve       Bytes         `name:"disk-reserve" group:"Storage" help:"Free space below which messages are refused with 507."`
	PublishTimeout    time.Duration `name:"publish-timeout" group:"Storage" help:"How long a message may take to become durable before the answer is 503 outcome_unknown."`
	Retention         time.Duration `name:"retention" group:"Storage" help:"How long a message is kept after it became final."`
	IdempotencyWindow time.Duration `name:"idempotency-window" group:"Storage" help:"How long an Idempotency-Key is remembered; at most the retention."`

	ClusterName      string   `name:"cluster-name" group:"Cluster" help:"Name that all nodes of a cluster have in common; empty for a node that is alone."`
	NodeName         string   `name:"node-name" group:"Cluster" help:"Name of this node, unlike any other's, and the same after a restart."`
	Advertise        string   `name:"advertise" group:"Cluster" placeholder:"URL" help:"Base URL at which others reach this node's HTTP server; empty takes the address of listen."`
	DeviceURL        string   `name:"device-url" group:"Cluster" placeholder:"URL" help:"Base URL at which devices reach this node past any balancer, such as https://node-1.example.com. Devices that negotiate at any other address of the node are sent to the node with the fewest, at its URL; those that negotiate there stay, unless it has many more than the others. Empty for a node that neither sends nor takes any."`
	ShedRate         int      `name:"shed-rate" group:"Cluster" placeholder:"PERCENT" help:"Most of its devices, in percent a minute, that a node with far more than its share tells to reconnect to others; one a second is always allowed. 0 for none."`
	Routes           []string `name:"routes" group:"Cluster" placeholder:"HOST:PORT" help:"Cluster addresses of the three or five nodes that keep the journal, this one's among them."`
	ClusterListen    string   `name:"cluster-listen" group:"Cluster" placeholder:"HOST:PORT" help:"Address for the connections between the nodes that keep the journal."`
	ClusterAdvertise string   `name:"cluster-advertise" group:"Cluster" placeholder:"HOST:PORT" help:"Address at which they reach this one, if it is not cluster-listen."`
	ClientListen     string   `name:"client-listen" group:"Cluster" placeholder:"HOST:PORT" help:"Address on which a node that keeps the journal takes those that do not, with nats-url."`
	NATSURL          []string `name:"nats-url" group:"Cluster" placeholder:"URL" help:"NATS servers that keep the journal: those of an own NATS cluster, or the client-listen of nodes that keep it. They must sync each write."`
	NATSMonitor      []string `name:"nats-monitor" group:"Cluster" placeholder:"URL" help:"HTTP monitoring of the servers of an own NATS cluster, such as http://nats-1:8222: a node does not start if one of them does not sync each write. Not for nodes that keep the journal, which always do."`
	ClusterSecret    Secret   `name:"cluster-secret" group:"Cluster" placeholder:"SECRET" help:"Secret that the nodes tell each other, the same for all."`
	ClusterCert      string   `name:"cluster-cert" group:"Cluster" placeholder:"FILE" help:"Certificate of this node for TLS between nodes."`
	ClusterKey       string   `name:"cluster-key" group:"Cluster" placeholder:"FILE" help:"Its private key."`
	ClusterCA        string   `name:"cluster-ca" group:"Cluster" placeholder:"FILE" help:"Certificate authority of the other nodes' certificates."`
	Replicas         int      `name:"replicas" group:"Cluster" help:"Servers that keep each message; 0 takes three in a cluster and one in a node that is alone."`

	AckTimeout     time.Duration `name:"ack-timeout" group:"Delivery" help:"How long a device may take to acknowledge before the attempt counts as failed."`
	MaxAttempts    int           `name:"max-attempts" group:"Delivery" help:"Failed attempts after which a message goes to the dead-letter queue."`
	BackoffBase    time.Duration `name:"backoff-base" group:"Delivery" help:"Wait after the first failed attempt; it doubles with each further one."`
	BackoffCap     time.Duration `name:"backoff-cap" group:"Delivery" help:"Longest wait between two attempts."`
	BreakerStrikes int           `name:"breaker-strikes" group:"Delivery" help:"Failed attempts in a row after which a recipient's circuit breaker opens; 0 for never."`
	BreakerPause   time.Duration `name:"breaker-pause" group:"Delivery" help:"How long a recipient's open circuit breaker lets nothing through before one message may try; it doubles with each further failure, six times at most."`
	Window         int           `name:"window" group:"Delivery" help:"Messages sent to one recipient and not yet acknowledged."`
	TierWeights    TierWeights   `name:"tier-weights" group:"Delivery" help:"Shares of dispatch that the tiers get when all of them have more to do; within a tier clients share evenly."`
	DispatchMemory Bytes         `name:"dispatch-memory" group:"Delivery" help:"Memory for messages that are read and not yet stored; beyond it dispatch stops reading ahead. At most a quarter of the memory limit is used."`

	WebhookAllow        []string      `name:"webhook-allow" group:"Webhooks" placeholder:"CIDR" help:"Networks that are not public and that webhooks may call all the same, such as 10.1.0.0/16; a loopback network also allows http:// there."`
	WebhookRequests     int           `name:"webhook-requests" group:"Webhooks" help:"Requests to webhooks under way at one time, over all endpoints."`
	WebhookTimeout      time.Duration `name:"webhook-timeout" group:"Webhooks" help:"How long a webhook may take to answer, to the last byte."`
	WebhookRetryFor     time.Duration `name:"webhook-retry-for" group:"Webhooks" help:"How long an event that a webhook refuses is tried again."`
	WebhookDisableAfter time.Duration `name:"webhook-disable-after" group:"Webhooks" help:"How long every request to a webhook may fail until it is disabled."`

	LogLevel    slog.Level `name:"log-level" group:"Process" help:"Least level that is logged: debug, info, warn or error."`
	LogFormat   string     `name:"log-format" group:"Process" help:"Form of the log: text or json."`
	GCPercent   int        `name:"gc-percent" group:"Process" help:"Heap growth, in percent, between two garbage collections; 0 leaves it to GOGC."`
	MemoryLimit Bytes      `name:"memory-limit" group:"Process" help:"Memory to stay under; near it nothing is read ahead and messages wait on disk. 0 takes GOMEMLIMIT, or else nine tenths of what the cgroup allows."`
}

// DefaultConfig returns the configuration of a development server on one machine.
func DefaultConfig() Config {
	return Config{
		Listen:        "127.0.0.1:8080",
		HeaderTimeout: 10 * time.Second,
		BodyTimeout:   30 * time.Second,
		IdleTimeout:   2 * time.Minute,
		DrainTimeout:  20 * time.Second,

		AcceptLatency: ingest.DefaultAcceptLatency,
		AdmissionWait: 50 * time.Millisecond,

		Data:              "data",
		Shards:            2,
		JournalSize:       8 << 30,
		JournalKeep:       10 * time.Minute,
		DiskReserve:       256 << 20,
		PublishTimeout:    5 * time.Second,
		Retention:         30 * 24 * time.Hour,
		IdempotencyWindow: 24 * time.Hour,

		ShedRate: 5,

		AckTimeout:     15 * time.Second,
		MaxAttempts:    10,
		BackoffBase:    time.Second,
		BackoffCap:     5 * time.Minute,
		BreakerStrikes: 5,
		BreakerPause:   10 * time.Second,
		Window:         100,
		TierWeights:    TierWeights(fair.DefaultWeights()),
		DispatchMemory: 256 << 20,

		WebhookRequests:     256,
		WebhookTimeout:      15 * time.Second,
		WebhookRetryFor:     72 * time.Hour,
		WebhookDisableAfter: 72 * time.Hour,

		LogLevel:  slog.LevelInfo,
		LogFormat: "text",
	}
}

// OptionError says that an option has a value that it cannot have.
type OptionError struct {
	Option string // its name, such as "ack-timeout"
	Value  string // the value at fault, masked if it is a secret
	Reason string // what the value would have to be
}

// Error names the option, its value and what that would have to be.
func (e *OptionError) Error() string {
	return fmt.Sprintf("%s %q: %s", e.Option, e.Value, e.Reason)
}

// Validate reports every option that has an impossible value: nil, or the join of an *OptionError
// for each. It looks at the values alone, not at the machine.
func (c *Config) Validate() error {
	var wrong []error
	check := func(ok bool, option string, value any, reason string, args ...any) {
		if !ok {
			wrong = append(wrong, &OptionError{Option: option, Value: fmt.Sprint(value), Reason: fmt.Sprintf(reason, args...)})
		}
	}
	address := func(option, value string) {
		reason := addressFault(value)
		check(reason == "", option, value, "%s", reason)
	}
	between := func(option string, value, least, most int) {
		check(least <= value && value <= most, option, value, "must lie between %d and %d", least, most)
	}
	atLeast := func(option string, value, least time.Duration) {
		check(value >= least, option, value, "must be %s or more", least)
	}
	size := func(option string, value, least Bytes) {
		check(value >= least, option, value, "must be %s or more", least)
	}

	address("listen", c.Listen)
	check((c.TLSCert == "") == (c.TLSKey == ""), "tls-key", c.TLSKey, "must be set with tls-cert")
	if c.DebugListen != "" {
		address("debug-listen", c.DebugListen)
	}
	for _, o := range c.AllowedOrigins {
		check(o == "*" || isOrigin(o), "allowed-origins", o, "must be * or a scheme and a host, as in https://app.example.com")
	}
	for _, s := range c.TrustedProxies {
		_, err := peer.ParseTrusted([]string{s})
		check(err == nil, "trusted-proxies", s, "must be a network or an address, as in 10.0.0.0/8")
	}
	check(c.MaxConnections >= 0, "max-connections", c.MaxConnections, "must be 0 or more")
	atLeast("header-timeout", c.HeaderTimeout, time.Millisecond)
	atLeast("body-timeout", c.BodyTimeout, time.Millisecond)
	atLeast("idle-timeout", c.IdleTimeout, time.Millisecond)
	atLeast("drain-delay", c.DrainDelay, 0)
	atLeast("drain-timeout", c.DrainTimeout, 0)

	check(isKey(string(c.BootstrapKey)), "bootstrap-key", c.BootstrapKey, "must be at most 256 visible ASCII characters")

	check(c.AdminKey == "" || len(c.AdminKey) >= minAdminKey && isKey(string(c.AdminKey)), "admin-key", c.AdminKey,
		"must be %d to 256 visible ASCII characters", minAdminKey)

	atLeast("accept-latency", c.AcceptLatency, time.Millisecond)
	check(c.AdmissionWait >= 0 && c.AdmissionWait <= 5*time.Second, "admission-wait", c.AdmissionWait, "must lie between 0s and 5s")

	check(strings.TrimSpace(c.Data) != "", "data", c.Data, "must name a directory")
	fault := c.Store.fault()
	check(fault == "", "store", c.Store, "%s", fault)
	between("shards", c.Shards, 1, 4096)
	size("journal-size", c.JournalSize, 16<<20)
	atLeast("journal-keep", c.JournalKeep, 0)
	size("disk-reserve", c.DiskReserve, 0)
	atLeast("publish-timeout", c.PublishTimeout, time.Millisecond)
	atLeast("retention", c.Retention, time.Minute)
	check(c.IdempotencyWindow >= 0 && c.IdempotencyWindow <= c.Retention, "idempotency-window", c.IdempotencyWindow,
		"must lie between 0s and the retention, %s", c.Retention)

	c.clusterFaults(check)

	atLeast("ack-timeout", c.AckTimeout, time.Millisecond)
	between("max-attempts", c.MaxAttempts, 1, 1000)
	atLeast("backoff-base", c.BackoffBase, time.Millisecond)
	check(c.BackoffCap >= c.BackoffBase, "backoff-cap", c.BackoffCap, "must be the backoff-base, %s, or more", c.BackoffBase)
	between("breaker-strikes", c.BreakerStrikes, 0, 1000)
	atLeast("breaker-pause", c.BreakerPause, time.Millisecond)
	between("window", c.Window, 1, 10000)
	for _, w := range c.TierWeights {
		check(w >= 1 && w <= 1000, "tier-weights", c.TierWeights, "must give every tier between 1 and 1000")
	}
	size("dispatch-memory", c.DispatchMemory, esh3ar.MaxBatchBytes)

	for _, n := range c.WebhookAllow {
		_, err := netip.ParsePrefix(n)
		check(err == nil, "webhook-allow", n, "must be a network, as in 10.1.0.0/16")
	}
	between("webhook-requests", c.WebhookRequests, 1, 10000)
	atLeast("webhook-timeout", c.WebhookTimeout, time.Millisecond)
	atLeast("webhook-retry-for", c.WebhookRetryFor, time.Second)
	atLeast("webhook-disable-after", c.WebhookDisableAfter, time.Second)

	check(c.LogFormat == "text" || c.LogFormat == "json", "log-format", c.LogFormat, "must be text or json")
	between("gc-percent", c.GCPercent, 0, 10000)
	size("memory-limit", c.MemoryLimit, 0)
	return errors.Join(wrong...)
}

// addressFault says what is wrong with a listening address, "" if nothing is.
func addressFault(s string) string {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return "must be a host and a port, as in 127.0.0.1:8080"
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return "must have a port between 0 and 65535"
	}
	return ""
}

// isOrigin reports whether s is a web origin as browsers send it.
func isOrigin(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && !strings.Contains(u.Host, "*") && s == u.Scheme+"://"+u.Host
}

// minAdminKey is the least length of an admin key that somebody chose, too long to be guessed over a network.
const minAdminKey = 16

// isKey reports whether s can travel in an Authorization header.
func isKey(s string) bool {
	if len(s) > 256 {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
