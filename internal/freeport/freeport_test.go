package freeport_test

import (
	"net"
	"strconv"
	"testing"

	"github.com/esh3artech/esh3ar/internal/freeport"
)

func TestTake(t *testing.T) {
	const n = 50
	addresses, err := freeport.Take(t.Context(), "127.0.0.1", n)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, a := range addresses {
		_, port, err := net.SplitHostPort(a)
		if err != nil {
			t.Fatal(err)
		}
		if p, err := strconv.Atoi(port); err != nil || p < 10000 || p >= 30000 {
			t.Errorf("port %s", port)
		}
		seen[a] = true
	}
	if len(seen) != n {
		t.Errorf("%d different addresses of %d", len(seen), n)
	}
}

func TestCheck(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if _, err := freeport.Check(t.Context(), address); err == nil {
		t.Error("an address that is in use is free")
	}
	l.Close()
	if got, err := freeport.Check(t.Context(), address); err != nil || got != address {
		t.Errorf("%s: %s, %v", address, got, err)
	}
	if got, err := freeport.Check(t.Context(), "127.0.0.1:0"); err != nil || got == "127.0.0.1:0" {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := freeport.Check(t.Context(), "nonsense"); err == nil {
		t.Error("no address is free")
	}
}
