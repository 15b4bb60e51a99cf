package balance

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/health"
)

// listingNode is a node that lists what the test says.
type listingNode struct {
	*httptest.Server
	listing atomic.Pointer[health.Listing] // nil: it hangs up
}

func newListingNode(t *testing.T) *listingNode {
	n := new(listingNode)
	n.Server = server(t, func(w http.ResponseWriter, r *http.Request) {
		l := n.listing.Load()
		if l == nil || r.URL.Path != health.ListingPath {
			panic(http.ErrAbortHandler)
		}
		if err := json.NewEncoder(w).Encode(l); err != nil {
			t.Error(err)
		}
	})
	return n
}

// lists has a node of a cluster list nodes.
func (n *listingNode) lists(fresh bool, nodes ...*listingNode) {
	l := health.Listing{Cluster: "one", Fresh: fresh}
	for _, m := range nodes {
		l.Nodes = append(l.Nodes, health.Listed{URL: m.URL, Status: health.OK})
	}
	n.listing.Store(&l)
}

func urlsOf(nodes ...*listingNode) []string {
	var urls []string
	for _, n := range nodes {
		urls = append(urls, n.URL)
	}
	slices.Sort(urls)
	return urls
}

func TestDiscovery(t *testing.T) {
	a, b, c := newListingNode(t), newListingNode(t), newListingNode(t)
	all := []*listingNode{a, b, c}
	list := func(fresh bool, of []*listingNode, nodes ...*listingNode) {
		for _, n := range of {
			n.lists(fresh, nodes...)
		}
	}
	// What is known at first is better than nothing, although the node does not hear of the others.
	list(false, all, a, b)
	sets, faults := watched(t, Discovery{Seeds: []string{a.URL}, Every: 5 * time.Millisecond})
	next := func(what string, want ...*listingNode) {
		t.Helper()
		select {
		case got := <-sets:
			if !slices.Equal(got, urlsOf(want...)) {
				t.Fatalf("%s: the nodes are %q, want %q", what, got, urlsOf(want...))
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: no news", what)
		}
	}
	next("at first", a, b)
	list(true, all, a, b, c)
	next("one comes", a, b, c)

	// Nodes that do not hear of the others say nothing about who has gone or come.
	a.lists(false, a)
	b.lists(false, b)
	c.lists(true, a, b, c)
	// The seed is away: the others are asked. Nobody is left out because nobody answers.
	a.listing.Store(nil)
	c.lists(true, b, c)
	next("one has gone, by the word of one that hears", b, c)
	b.listing.Store(nil)
	c.listing.Store(nil)
	if err := <-faults; err == nil {
		t.Error("that nobody answers is no fault")
	}
	c.lists(true, c)
	next("one answers again", c)
	// A node that has just come is not known to all.
	list(true, all, a, b, c)
	next("all are there", a, b, c)
	if len(sets) > 0 {
		t.Errorf("more news: %q", <-sets)
	}
}

// A node that a single answer leaves out stays.
func TestDirectory(t *testing.T) {
	answer := func(deployment string, fresh bool, urls ...string) listed { return listed{deployment, fresh, urls} }
	d := make(directory)
	for i, step := range []struct {
		answers []listed
		want    []string
	}{
		{[]listed{answer("x", false, "a"), answer("x", false, "b")}, []string{"a", "b"}},
		{[]listed{answer("x", false, "a")}, []string{"a", "b"}},
		{nil, []string{"a", "b"}},
		{[]listed{answer("x", true, "a", "c"), answer("x", false, "d")}, []string{"a", "b", "c"}},
		{[]listed{answer("x", true, "a", "b"), answer("x", true, "a", "c")}, []string{"a", "b", "c"}},
		{[]listed{answer("x", true, "a")}, []string{"a", "b", "c"}},
		{[]listed{answer("x", true, "a", "b")}, []string{"a", "b"}},
		// Another deployment is another matter.
		{[]listed{answer("y", true, "y")}, []string{"a", "b", "y"}},
		{[]listed{answer("y", true, "y")}, []string{"a", "b", "y"}},
		{[]listed{answer("y", true, "y", "b")}, []string{"a", "b", "y"}},
		{[]listed{answer("x", true, "a"), answer("y", true, "y")}, []string{"a", "b", "y"}},
		{[]listed{answer("x", true, "a"), answer("y", true, "y")}, []string{"a", "y"}},
	} {
		d.hear(step.answers)
		if got := d.urls(); !slices.Equal(got, step.want) {
			t.Fatalf("step %d: the nodes are %q, want %q", i, got, step.want)
		}
	}
}

func TestReadListing(t *testing.T) {
	for body, want := range map[string][]string{
		`{"fresh":true,"nodes":[{"status":"ok"}]}`:                                                {"http://asked:80"},
		`{"cluster":"c","fresh":true,"nodes":[{"url":"http://a"},{"url":"http://b:1/","new":1}]}`: {"http://a:80", "http://b:1"},
	} {
		l, err := readListing("http://asked", []byte(body))
		if err != nil || !slices.Equal(l.urls, want) || !l.fresh {
			t.Errorf("%s: %+v, %v", body, l, err)
		}
	}
	for _, bad := range []string{"", "{}", `{"nodes":[]}`, "404 page not found"} {
		if l, err := readListing("http://asked", []byte(bad)); err == nil {
			t.Errorf("%q is taken for %+v", bad, l)
		}
	}
}

// A redirect is not followed, and what does not list nodes is told what is missing.
func TestDiscoveryOfSomethingElse(t *testing.T) {
	_, faults := watched(t, Discovery{Seeds: []string{server(t, http.NotFound).URL}, Every: time.Hour})
	if err := <-faults; err == nil {
		t.Error("404 is no fault")
	} else {
		t.Log(err)
	}
	_, faults = watched(t, Discovery{Seeds: []string{server(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+r.Host+"/elsewhere", http.StatusFound)
	}).URL}, Every: time.Hour})
	if err := <-faults; err == nil {
		t.Error("a redirect is no fault")
	}
}

// What nodes tell balancers does not pass a balancer.
func TestListingDoesNotPass(t *testing.T) {
	node := server(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "passed") })
	b := start(t, newSetNodes(node.URL), nil)
	for _, path := range []string{health.ListingPath, health.ListingPath + "/", "/internal/./nodes", "//internal/nodes", "/internal/%6eodes"} {
		if a := ask(t, httpClient(t), "GET", b.url+path, ""); a.status != 404 || a.code() != "no_such_route" {
			t.Errorf("%s: %+v", path, a)
		}
	}
}
