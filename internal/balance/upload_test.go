package balance

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// uploadPaths are those of both ways through the balancer; the second is for net/http to read.
var uploadPaths = []string{"/v1/messages", "/v1/%6dessages"}

// A body counts as the work that it is only when all of it has gone to the node, and no answer from before that counts as a latency.
func TestWorkOfABodyThatArrivesSlowly(t *testing.T) {
	const length = 8 << 20
	almost, arrived, answer := make(chan struct{}), make(chan struct{}), make(chan int)
	node := server(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, length-1)
		almost <- struct{}{}
		_, _ = io.Copy(io.Discard, r.Body)
		arrived <- struct{}{}
		w.WriteHeader(<-answer)
	})
	b := start(t, newSetNodes(node.URL), nil)
	c := httpClient(t)
	for _, path := range uploadPaths {
		for _, status := range []int{http.StatusUnauthorized, http.StatusAccepted} {
			before := b.views()[0].Latency
			body, w := io.Pipe()
			r, err := http.NewRequest(http.MethodPost, b.url+path, body)
			if err != nil {
				t.Fatal(err)
			}
			r.ContentLength = length
			ended := make(chan int, 1)
			go func() {
				resp, err := c.Do(r)
				if err != nil {
					t.Error(err)
					ended <- 0
					return
				}
				resp.Body.Close()
				ended <- resp.StatusCode
			}()
			if _, err := io.WriteString(w, strings.Repeat("x", length-1)); err != nil {
				t.Fatal(err)
			}
			<-almost
			if v := b.views()[0]; v.Work > 1 {
				t.Errorf("%s: work for %d is noted before the body's end", path, v.Work)
			}
			if _, err := io.WriteString(w, "x"); err != nil {
				t.Fatal(err)
			}
			w.Close()
			<-arrived
			eventually(t, "the work is noted", func() bool { return b.views()[0].Work == length>>12 })
			answer <- status
			if got := <-ended; got != status {
				t.Errorf("%s: answered %d, want %d", path, got, status)
			}
			v := b.views()[0]
			if v.Work != 0 || v.InFlight != 0 {
				t.Errorf("%s: work for %d in %d requests is left", path, v.Work, v.InFlight)
			}
			if counts := v.Latency != before; counts != (status == http.StatusAccepted) {
				t.Errorf("%s: %d: the latency goes from %v to %v", path, status, before, v.Latency)
			}
		}
	}
}

// A stalled upload takes no more of its node's share of small requests than one of them does.
func TestStalledUploadKeepsTheShare(t *testing.T) {
	var got [3]atomic.Int64
	var stalled [3]atomic.Bool
	var urls []string
	for i := range got {
		urls = append(urls, server(t, func(w http.ResponseWriter, r *http.Request) {
			if r.ContentLength > replayBuffer {
				stalled[i].Store(true)
			} else {
				got[i].Add(1)
			}
			_, _ = io.Copy(io.Discard, r.Body)
			<-time.After(2 * time.Millisecond)
			w.WriteHeader(http.StatusAccepted)
		}).URL)
	}
	b := start(t, newSetNodes(urls...), nil)
	allReady(t, b, len(urls))
	c := httpClient(t)
	for _, path := range uploadPaths {
		body, w := io.Pipe()
		r, err := http.NewRequest(http.MethodPost, b.url+path, body)
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = 8 << 20
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if resp, err := c.Do(r); err == nil {
				resp.Body.Close()
			}
		}()
		if _, err := io.WriteString(w, strings.Repeat("x", 100_000)); err != nil {
			t.Fatal(err)
		}
		at := -1
		eventually(t, "a node has the upload", func() bool {
			for i := range stalled {
				if stalled[i].Load() {
					at = i
				}
			}
			return at >= 0
		})
		// The upload counts as one small request. That is a lot where there is one at a time at most, and little where there are many.
		for clients, least := range map[int]float64{1: 0.07, 30: 0.22} {
			const n = 600
			before := got[at].Load()
			var under sync.WaitGroup
			for range clients {
				under.Go(func() {
					for range n / clients {
						ask(t, c, http.MethodPost, b.url+"/v1/messages", "m")
					}
				})
			}
			under.Wait()
			share := float64(got[at].Load()-before) / n
			t.Logf("%s: with %d clients the node with the upload has %.2f of the requests", path, clients, share)
			if share < least {
				t.Errorf("%s: with %d clients the node with the upload has %.3f of the requests, want %.2f", path, clients, share, least)
			}
		}
		w.CloseWithError(io.ErrUnexpectedEOF)
		<-ended
		stalled[at].Store(false)
	}
}
