package balance

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

// Nodes tells which nodes there are.
type Nodes interface {
	// Watch calls set with the nodes' URLs as soon as they are known and whenever they have changed, until ctx
	// ends; it then returns ctx's error. It calls failed with what keeps it from knowing, and tries again: what was
	// set last stays meanwhile. Both are called by one goroutine.
	Watch(ctx context.Context, set func([]string), failed func(error)) error
}

// Static is a fixed list of URLs.
type Static []string

// Watch implements Nodes.
func (s Static) Watch(ctx context.Context, set func([]string), _ func(error)) error {
	set(s)
	<-ctx.Done()
	return ctx.Err()
}

// DNS are the addresses of a name, resolved again and again: a headless service of Kubernetes, for example.
type DNS struct {
	// HostPort is the name and the port, as in "nodes.internal:8080".
	HostPort string
	// Scheme is http or https; "" for http.
	Scheme string
	// Every is how often the name is resolved.
	Every time.Duration
	// Resolver is the one to ask; nil for the system's.
	Resolver interface {
		LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	}
}

// Watch implements Nodes.
func (d DNS) Watch(ctx context.Context, set func([]string), failed func(error)) error {
	host, port, err := net.SplitHostPort(d.HostPort)
	if err != nil {
		return err
	}
	resolver := d.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	return poll(ctx, d.Every, func() ([]string, error) {
		ctx, cancel := context.WithTimeout(ctx, max(d.Every, 5*time.Second))
		defer cancel()
		addrs, err := resolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, err
		}
		urls := make([]string, 0, len(addrs))
		for _, a := range addrs {
			urls = append(urls, cmp.Or(d.Scheme, "http")+"://"+net.JoinHostPort(a.Unmap().String(), port))
		}
		return urls, nil
	}, set, failed)
}

// File is a file with one URL a line; empty lines and such as begin with # count nothing. It is read again
// and again.
type File struct {
	Path  string
	Every time.Duration
}

// Watch implements Nodes.
func (f File) Watch(ctx context.Context, set func([]string), failed func(error)) error {
	return poll(ctx, f.Every, func() ([]string, error) {
		b, err := os.ReadFile(f.Path)
		if err != nil {
			return nil, err
		}
		var urls []string
		for line := range bytes.Lines(b) {
			s := strings.TrimSpace(string(line))
			if s != "" && s[0] != '#' {
				urls = append(urls, s)
			}
		}
		if len(urls) == 0 {
			// Somebody is about to write it. To stop all traffic, stop the balancer.
			return nil, fmt.Errorf("%s names no node", f.Path)
		}
		for _, s := range urls {
			if _, err := ParseNode(s); err != nil {
				return nil, fmt.Errorf("%s: %w", f.Path, err)
			}
		}
		return urls, nil
	}, set, failed)
}

// poll sets what look finds, at once and every so often when it has changed.
func poll(ctx context.Context, every time.Duration, look func() ([]string, error), set func([]string), failed func(error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last []string
	for {
		urls, err := look()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			failed(err)
		default:
			slices.Sort(urls)
			urls = slices.Compact(urls)
			if !slices.Equal(urls, last) {
				set(urls)
				last = urls
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// ParseNode reads the URL of a node: http or https, a host, a port, and nothing more.
func ParseNode(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/" {
		return nil, fmt.Errorf("%q is no node: http://host:port is, or https://host:port", s)
	}
	if u.Port() == "" {
		port := "80"
		if u.Scheme == "https" {
			port = "443"
		}
		u.Host = net.JoinHostPort(u.Hostname(), port)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}
