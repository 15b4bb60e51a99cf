package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/client"
)

// TestTop looks at a server that a message goes through.
func TestTop(t *testing.T) {
	s := startServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	device := program(ctx, "listen", "--url", s.url, "--key", s.key, "--as", "amina")
	if err := device.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = device.Wait() // it was killed
	}()
	if out, errs, code := s.run(t, "send", "amina", "x", "--wait", "delivered"); code != 0 {
		t.Fatalf("%s%s", out, errs)
	}
	key := []string{"--admin-key-file", filepath.Join(s.data, "admin-key")}
	once := append([]string{"top", "--once"}, key...)

	// Rates are of two seconds, so that what was sent shows once.
	var o client.Overview
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); o.Nodes == nil || o.Nodes[0].Figures.Delivered == 0; <-tick.C {
		out, errs, code := s.run(t, append(once, "--json")...)
		if err := json.Unmarshal([]byte(out), &o); err != nil || code != 0 {
			t.Fatalf("status %d, %v: %q, %q", code, err, out, errs)
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing is delivered: %s", out)
		}
	}
	n := o.Nodes[0]
	f := n.Figures
	if len(o.Nodes) != 1 || o.Status != "ok" || o.Cluster != "" || !n.Here || n.Core || n.Address != s.url || len(n.Shards) != o.Shards || len(o.Unowned) != 0 || n.Free <= 0 {
		t.Errorf("%+v", o)
	}
	if f.Devices != 1 || f.Recipients == 0 || f.Processors == 0 || f.DeliverSeconds <= 0 || f.MemoryBytes <= 0 || f.StoreBreaker != "closed" {
		t.Errorf("figures %+v", f)
	}

	out, errs, code := s.run(t, once...)
	if code != 0 || !strings.Contains(out, "one server  ok  2 shards") || !strings.Contains(out, "NODE") || strings.Contains(out, "\x1b") {
		t.Errorf("status %d, %q, %q", code, out, errs)
	}
	if _, errs, code := s.run(t, "top", "--once", "--admin-key", "wrong"); code != 1 || !strings.Contains(errs, "401") {
		t.Errorf("a wrong key: status %d, %q", code, errs)
	}

	// Live, until it is interrupted.
	live := program(t.Context(), append([]string{"top", "--url", s.url, "--every", "100ms"}, key...)...)
	screen, err := live.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := live.Start(); err != nil {
		t.Fatal(err)
	}
	var seen bytes.Buffer
	part := make([]byte, 4096)
	for strings.Count(seen.String(), "\x1b[H") < 3 {
		k, err := screen.Read(part)
		seen.Write(part[:k])
		if err != nil {
			t.Fatalf("%v after %q", err, seen.String())
		}
	}
	if err := live.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := live.Wait(); err != nil {
		t.Errorf("it ends with %v", err)
	}
	if !strings.Contains(seen.String(), "one server") {
		t.Errorf("%q", seen.String())
	}
}
