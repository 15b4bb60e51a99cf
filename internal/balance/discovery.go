package balance

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar/internal/health"
)

const (
	// alsoAsked is how many of the known nodes are asked each time, drawn at random, beside those that were given.
	alsoAsked = 3
	// missedLeft is how many times in a row a node must not be listed to have left: one that has just come may not be known
	// to all.
	missedLeft = 2
	// listingTime is how long a node may take to list the nodes, maxListing the longest list, in bytes.
	listingTime = time.Second
	maxListing  = 4 << 20
)

// Discovery learns the nodes from the nodes: given some of them it finds all, and follows as they come and go.
//
// A node comes and leaves by the word of those that hear of each other at the time. While none does, or none answers, the
// nodes stay that were known last; whether they can be reached is for the balancer to find out.
type Discovery struct {
	// Seeds are the URLs of nodes to begin with. They are asked again and again, and are not nodes by themselves: a name that leads
	// to any of them will do.
	Seeds []string
	// Every is how often nodes are asked.
	Every time.Duration
	// TLS says how nodes with https URLs are asked; nil for what the zero NodeTLSOptions say.
	TLS *NodeTLS
}

// Watch implements Nodes.
func (d Discovery) Watch(ctx context.Context, set func([]string), failed func(error)) error {
	over := d.TLS
	if over == nil {
		over = new(NodeTLS)
	}
	client := &http.Client{
		Transport: over.transport(listingTime),
		Timeout:   listingTime,
		// Where a node leads elsewhere it is none.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(d.Every)
	defer tick.Stop()
	known := make(directory)
	var last []string
	fault := ""
	for {
		answers, err := askAll(ctx, client, d.asked(last))
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case len(answers) > 0:
			fault = ""
		case err.Error() != fault: // told once
			fault = err.Error()
			failed(err)
		}
		known.hear(answers)
		if urls := known.urls(); !slices.Equal(urls, last) {
			set(urls)
			last = urls
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// asked returns whom to ask: all seeds, and some of the known.
func (d Discovery) asked(known []string) []string {
	all := slices.Clone(d.Seeds)
	for _, i := range rand.Perm(len(known))[:min(alsoAsked, len(known))] {
		all = append(all, known[i])
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// listed is what one node answered.
type listed struct {
	deployment string // the cluster's name, or the URL of a node that is alone
	fresh      bool
	urls       []string
}

// askAll asks nodes side by side. Its error says why those did not answer that did not.
func askAll(ctx context.Context, client *http.Client, urls []string) ([]listed, error) {
	answers, faults := make([]listed, len(urls)), make([]error, len(urls))
	var asking sync.WaitGroup
	for i, url := range urls {
		asking.Go(func() {
			if answers[i], faults[i] = askListing(ctx, client, url); faults[i] != nil {
				faults[i] = fmt.Errorf("%s: %w", url, faults[i])
			}
		})
	}
	asking.Wait()
	return slices.DeleteFunc(answers, func(l listed) bool { return len(l.urls) == 0 }), errors.Join(faults...)
}

// askListing asks one node. Its answer has at least one URL.
func askListing(ctx context.Context, client *http.Client, url string) (listed, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(url, "/")+health.ListingPath, nil)
	if err != nil {
		return listed{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return listed{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxListing))
	switch {
	case err != nil:
		return listed{}, err
	case resp.StatusCode == http.StatusNotFound:
		return listed{}, errors.New("it does not list the nodes; this balancer's address must be among its trusted-proxies")
	case resp.StatusCode != http.StatusOK:
		return listed{}, fmt.Errorf("it answers with status %d", resp.StatusCode)
	}
	return readListing(url, body)
}

// readListing understands the answer of the node at url.
func readListing(url string, body []byte) (listed, error) {
	var l health.Listing
	if err := json.Unmarshal(body, &l); err != nil {
		return listed{}, fmt.Errorf("its list of nodes: %w", err)
	}
	out := listed{deployment: cmp.Or(l.Cluster, url), fresh: l.Fresh}
	for _, n := range l.Nodes {
		at := cmp.Or(n.URL, url)
		if u, err := ParseNode(at); err == nil { // else the balancer tells of it
			at = u.String()
		}
		out.urls = append(out.urls, at)
	}
	if len(out.urls) == 0 {
		return listed{}, errors.New("its list of nodes is empty")
	}
	return out, nil
}

// directory is what is known of the nodes: by deployment and URL, how many times in a row each was not listed.
// There is mostly one deployment; several that are given are taken together.
type directory map[string]map[string]int

// hear takes the answers of one time.
func (d directory) hear(answers []listed) {
	fresh := make(map[string]map[string]bool) // URLs by deployment
	for _, a := range answers {
		if !a.fresh {
			continue
		}
		if fresh[a.deployment] == nil {
			fresh[a.deployment] = make(map[string]bool)
		}
		for _, url := range a.urls {
			fresh[a.deployment][url] = true
		}
	}
	first := make(directory)
	for _, a := range answers {
		if d[a.deployment] != nil || fresh[a.deployment] != nil {
			continue
		}
		if first[a.deployment] == nil {
			first[a.deployment] = make(map[string]int)
		}
		for _, url := range a.urls {
			first[a.deployment][url] = 0
		}
	}
	maps.Copy(d, first) // of those of whom nothing is known anything is better than that
	for deployment, urls := range fresh {
		if d[deployment] == nil {
			d[deployment] = make(map[string]int)
		}
		nodes := d[deployment]
		for url := range nodes {
			if nodes[url]++; nodes[url] >= missedLeft && !urls[url] {
				delete(nodes, url)
			}
		}
		for url := range urls {
			nodes[url] = 0
			for other, theirs := range d { // an address has one deployment
				if other != deployment {
					delete(theirs, url)
				}
			}
		}
	}
}

// urls returns all nodes in order.
func (d directory) urls() []string {
	all := make(map[string]bool)
	for _, nodes := range d {
		for url := range nodes {
			all[url] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}
