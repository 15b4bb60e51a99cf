package node

import (
	"cmp"
	"net"
	"net/url"
	"strings"
)

// advertised is the base URL at which others reach this node, by default that which it listens on.
func (c *Config) advertised() string {
	return cmp.Or(c.Advertise, c.scheme()+"://"+c.Listen)
}

// natsURLFault says what is wrong with the URL of a NATS server, "" if nothing is.
func natsURLFault(s string) string {
	if !strings.Contains(s, "://") {
		s = "nats://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Scheme != "nats" && u.Scheme != "tls" {
		return "must be a NATS server, as in nats://node-1:4222 or tls://node-1:4222"
	}
	return ""
}

// clusterFaults reports what is wrong with the options of a cluster.
func (c *Config) clusterFaults(check func(ok bool, option string, value any, reason string, args ...any)) {
	if !c.clustered() {
		check(c.DeviceURL == "", "device-url", c.DeviceURL, "is of use to one of several nodes alone: set cluster-name")
		check(len(c.Routes) == 0 && len(c.NATSURL) == 0, "cluster-name", c.ClusterName, "must be set with routes or nats-url")
		return
	}
	check(c.NodeName != "", "node-name", c.NodeName, "must name this node, unlike any other of the cluster")
	check(c.Store != "" && c.sqlitePath() == "", "store", c.Store, "must be a postgres:// URL in a cluster: all nodes share it")
	check(c.DeviceURL == "" || isOrigin(c.DeviceURL), "device-url", c.DeviceURL, "must be a scheme and a host, as in https://node-1.example.com")
	check(c.JWTSecret != "", "jwt-secret", c.JWTSecret, "must be set in a cluster, the same for all nodes")
	check(len(c.Routes) > 0 != (len(c.NATSURL) > 0), "routes", c.Routes, "must list the nodes that keep the journal, or nats-url the servers that do, but not both")
	check(c.ClusterSecret != "" || c.ClusterCA != "", "cluster-secret", c.ClusterSecret, "or cluster-ca must be set: whoever gets in can read and write everything")
	check((c.ClusterCert == "") == (c.ClusterKey == ""), "cluster-key", c.ClusterKey, "must be set with cluster-cert")
	check(c.ShedRate >= 0 && c.ShedRate <= 6000, "shed-rate", c.ShedRate, "must lie between 0 and 6000")
	check(c.Replicas >= 0 && c.Replicas <= 5, "replicas", c.Replicas, "must lie between 0 and 5")
	if len(c.Routes) > 0 {
		if len(c.Routes) > 1 {
			fault := addressFault(c.ClusterListen)
			check(fault == "", "cluster-listen", c.ClusterListen, "%s", fault)
			check(c.Replicas <= len(c.Routes), "replicas", c.Replicas, "must not be more than the nodes in routes, which keep the journal")
		} else {
			check(c.Replicas <= 1, "replicas", c.Replicas, "must be 1 with one node in routes, which keeps the journal alone")
		}
		for _, route := range c.Routes {
			_, _, err := net.SplitHostPort(route)
			check(err == nil, "routes", route, "must be a host and a port, as in node-1:6222")
		}
	}
	for _, u := range c.NATSURL {
		fault := natsURLFault(u)
		check(fault == "", "nats-url", u, "%s", fault)
	}
	for _, u := range c.NATSMonitor {
		check(len(c.NATSURL) > 0, "nats-monitor", u, "must be set with nats-url")
		check(isOrigin(strings.TrimSuffix(u, "/")), "nats-monitor", u, "must be a scheme and a host, as in http://nats-1:8222")
	}
	if c.ClientListen != "" {
		check(len(c.Routes) > 0, "client-listen", c.ClientListen, "is for nodes that keep the journal, which have routes")
		fault := addressFault(c.ClientListen)
		check(fault == "", "client-listen", c.ClientListen, "%s", fault)
	}
}
