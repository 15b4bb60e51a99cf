//go:build unix

package chaos

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// agreeLimit is how long the nodes of a cluster may take to agree once everything is healed and has arrived.
	agreeLimit = 20 * time.Second
	// agreeSample is how many messages each node is asked for.
	agreeSample = 100
)

// agree sees to it that all nodes of a cluster say the same of the same messages, whomever they have to ask for it, and
// that each shard has one owner.
func (l *lab) agree(ctx context.Context) {
	if len(l.machines) == 1 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, agreeLimit)
	defer cancel()
	for {
		differ := l.differences(ctx)
		if len(differ) == 0 {
			return
		}
		if !pause(ctx, 500*time.Millisecond) {
			for _, d := range differ {
				l.book.fault("%s after all was healed: %s", agreeLimit, d)
			}
			return
		}
	}
}

// differences says in what the nodes do not agree now.
func (l *lab) differences(ctx context.Context) []string {
	var differ []string
	ids := l.book.sample(agreeSample)
	said := make([]string, len(ids)) // by the first node
	owned := 0.0
	for i, m := range l.machines {
		a := newAPI(apiKey, m.server.dial, false)
		for k, id := range ids {
			d, err := a.message(ctx, id)
			answer := fmt.Sprintf("%s in %d steps", d.Status, len(d.Timeline))
			switch {
			case err != nil:
				differ = append(differ, fmt.Sprintf("%s is asked for %s: %v", m.name, id, err))
			case i == 0:
				said[k] = answer
			case said[k] != answer && said[k] != "":
				differ = append(differ, fmt.Sprintf("%s is %q to %s and %q to %s", id, said[k], l.machines[0].name, answer, m.name))
			}
		}
		n, err := a.gauge(ctx, "esh3ar_shards_owned")
		if err != nil {
			differ = append(differ, fmt.Sprintf("%s is asked for its shards: %v", m.name, err))
		}
		owned += n
		a.close()
	}
	if owned != clusterShards {
		differ = append(differ, fmt.Sprintf("the nodes own %v shards, of %d", owned, clusterShards))
	}
	return differ
}

// gauge returns a metric without labels of the server.
func (a *api) gauge(ctx context.Context, name string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(io.LimitReader(resp.Body, 16<<20))
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("HTTP %d without %s", resp.StatusCode, name)
}
