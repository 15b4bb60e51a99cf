package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/client"
)

// operate carries out a tool with the server's admin key, as it lies in the data directory.
func (s server) operate(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return s.run(t, append(args, "--admin-key-file", filepath.Join(s.data, "admin-key"))...)
}

// must is operate for what must succeed.
func (s server) must(t *testing.T, args ...string) (stdout string) {
	t.Helper()
	out, errs, code := s.operate(t, args...)
	if code != 0 {
		t.Fatalf("esh3ar %s: status %d, %q, %q", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// sends reports how a message with that key ends: "" if it is accepted, or the problem.
func (s server) sends(t *testing.T, key, to string) string {
	t.Helper()
	_, errs, code := s.run(t, "send", to, "hello", "--key", key)
	if code == 0 {
		return ""
	}
	return errs
}

// within waits until a condition holds. That changes of keys are known within a second is the ingest package's to show: here each
// look is a run of the program, which takes a busy machine longer.
func within(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience / 2); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

func TestClientsAndKeys(t *testing.T) {
	s := startServer(t)
	if out := s.must(t, "clients", "ls"); !strings.Contains(out, "dev ") || !strings.Contains(out, "gold") {
		t.Errorf("clients ls: %q", out)
	}
	out := s.must(t, "clients", "create", "shop", "--name", "The Shop", "--tier", "bronze", "--rate", "100", "--recipients", "+962* shop-*", "--scopes", "send,read")
	for _, want := range []string{"shop", "The Shop", "bronze", "100", "+962* shop-*", "send, read", "active"} {
		if !strings.Contains(out, want) {
			t.Errorf("clients create does not show %q: %q", want, out)
		}
	}
	_, errs, code := s.operate(t, "clients", "create", "Shop!", "--rate=-1")
	if code != 1 || !strings.Contains(errs, "/id") || !strings.Contains(errs, "/rate") {
		t.Errorf("a bad client: status %d, %q", code, errs)
	}
	if _, errs, code := s.operate(t, "clients", "create", "x", "--tier", "platinum"); code != 2 || !strings.Contains(errs, "gold") {
		t.Errorf("a tier that is none: status %d, %q", code, errs)
	}
	if _, errs, code := s.run(t, "clients", "ls"); code != 1 || !strings.Contains(errs, "admin-key") {
		t.Errorf("without the admin key: status %d, %q", code, errs)
	}
	if _, errs, code := s.run(t, "clients", "ls", "--admin-key", s.key); code != 1 || !strings.Contains(errs, "admin_key_wrong") {
		t.Errorf("with an API key: status %d, %q", code, errs)
	}

	// A script takes the key from standard output alone.
	first := strings.TrimSuffix(s.must(t, "clients", "keys", "create", "shop", "--name", "till", "--expires-in", "24h"), "\n")
	if !strings.HasPrefix(first, esh3ar.KeyPrefix) || strings.ContainsAny(first, " \n") {
		t.Fatalf("clients keys create: %q", first)
	}
	if p := s.sends(t, first, "shop-1"); p != "" {
		t.Errorf("the new key: %s", p)
	}
	if p := s.sends(t, first, "alice"); !strings.Contains(p, "recipient_not_allowed") {
		t.Errorf("to somebody else: %q", p)
	}
	var second client.APIKey
	if err := json.Unmarshal([]byte(s.must(t, "clients", "keys", "rotate", "shop", first, "--overlap", "1h", "--json")), &second); err != nil {
		t.Fatal(err)
	}
	if second.Name != "till" || second.Replaces == nil || second.Replaces.ID != esh3ar.KeyID(first) || second.ExpiresAt.IsZero() {
		t.Errorf("clients keys rotate: %+v", second)
	}
	for _, key := range []string{first, second.Secret} {
		if p := s.sends(t, key, "shop-1"); p != "" {
			t.Errorf("during the overlap: %s", p)
		}
	}
	if out := s.must(t, "clients", "keys", "revoke", "shop", esh3ar.KeyID(first)); !strings.Contains(out, "revoked") {
		t.Errorf("clients keys revoke: %q", out)
	}
	within(t, "a revoked key works on", func() bool { return strings.Contains(s.sends(t, first, "shop-1"), "api_key_revoked") })
	out = s.must(t, "clients", "keys", "ls", "shop")
	if strings.Count(out, "\n") != 3 || !strings.Contains(out, "revoked") || !strings.Contains(out, "active") || strings.Contains(out, second.Secret) {
		t.Errorf("clients keys ls: %q", out)
	}

	s.must(t, "clients", "set", "shop", "--suspend")
	within(t, "a suspended client's key works on", func() bool { return strings.Contains(s.sends(t, second.Secret, "shop-1"), "client_suspended") })
	s.must(t, "clients", "set", "shop", "--resume", "--recipients", "", "--rate", "0")
	within(t, "a resumed client's key does not work", func() bool { return s.sends(t, second.Secret, "alice") == "" })
	var tenant client.Tenant
	if err := json.Unmarshal([]byte(s.must(t, "clients", "show", "shop", "--json")), &tenant); err != nil || tenant.Suspended || tenant.Rate != 0 || tenant.Tier != "bronze" {
		t.Errorf("clients show: %+v, %v", tenant, err)
	}

	if _, errs, code := s.operate(t, "clients", "rm", "shop"); code != 1 || !strings.Contains(errs, "client_has_keys") {
		t.Errorf("clients rm: status %d, %q", code, errs)
	}
	if out := s.must(t, "clients", "rm", "shop", "--revoke-keys"); out != "shop removed\n" {
		t.Errorf("clients rm --revoke-keys: %q", out)
	}

	var actions []string
	for line := range strings.Lines(s.must(t, "audit", "--client", "shop", "--json")) {
		var e client.AuditEntry
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Actor != "admin" || e.Address != "127.0.0.1" {
			t.Errorf("%q: %v", line, err)
		}
		actions = append(actions, e.Action)
	}
	want := "client.delete key.revoke client.update client.update key.revoke key.rotate key.create client.create"
	if got := strings.Join(actions, " "); got != want {
		t.Errorf("audit: %q, want %q", got, want)
	}
	out, errs, code = s.operate(t, "audit", "--action", "client.update", "--limit", "1")
	if code != 0 || strings.Count(out, "\n") != 2 || !strings.Contains(out, "suspended") || !strings.Contains(errs, "more than 1") {
		t.Errorf("audit: status %d, %q, %q", code, out, errs)
	}
}
