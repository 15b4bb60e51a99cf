package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar/internal/health"
)

// healthCmd asks one server, balancer or autoscaler whether it is well. It needs no key and no shell, so containers
// check themselves with it, and scripts wait with it.
type healthCmd struct {
	URL     string        `name:"url" env:"ESH3AR_URL" default:"http://127.0.0.1:8080" help:"The server's base URL, or that of a balancer's admin-listen."`
	Live    bool          `name:"live" help:"Ask only whether the process works at all, rather than whether it should get traffic."`
	Wait    time.Duration `name:"wait" default:"0s" help:"Ask again until it is well, for at most so long."`
	Timeout time.Duration `name:"timeout" default:"3s" help:"How long one answer may take."`
}

// healthPause is the pause between two questions.
const healthPause = 200 * time.Millisecond

// Run prints the answer. It fails if the server is not well in time.
func (c *healthCmd) Run(ctx context.Context, std stdio) error {
	path := "/readyz"
	if c.Live {
		path = "/healthz"
	}
	address, err := url.JoinPath(c.URL, path)
	if err != nil {
		return fmt.Errorf("--url: %w", err)
	}
	deadline := time.Now().Add(c.Wait)
	for {
		said, err := c.ask(ctx, address)
		if err == nil {
			_, err = fmt.Fprintln(std.out, said)
			return err
		}
		if !time.Now().Add(healthPause).Before(deadline) {
			return err
		}
		pause := time.NewTimer(healthPause)
		select {
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		case <-pause.C:
		}
	}
}

// ask asks once. It returns what a server says that is well, and fails for any other.
func (c *healthCmd) ask(ctx context.Context, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, max(c.Timeout, time.Millisecond))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", fmt.Errorf("--url: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	said := describeHealth(body)
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", resp.Status, said)
	}
	return said, nil
}

// describeHealth is the status, and what each part says that is not ok, in a line.
func describeHealth(body []byte) string {
	var r health.Report
	if json.Unmarshal(body, &r) != nil || r.Status == "" {
		return terminal(strings.TrimSpace(string(body)))
	}
	said := string(r.Status)
	for _, name := range slices.Sorted(maps.Keys(r.Checks)) {
		if c := r.Checks[name]; c.Status != health.OK {
			said += fmt.Sprintf("; %s %s: %s", name, c.Status, c.Detail)
		}
	}
	return terminal(said)
}
