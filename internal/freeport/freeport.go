// Package freeport finds addresses for servers whose addresses others must know before they run.
package freeport

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
)

// Take returns n addresses of the host, all different, on which nobody listens. Their ports lie below those that systems give
// to outgoing connections, so that they stay free while a server is away.
func Take(ctx context.Context, host string, n int) ([]string, error) {
	addresses := make([]string, n)
	for i := range addresses {
		l, err := listen(ctx, host)
		if err != nil {
			return nil, err
		}
		defer l.Close() // all are taken until all are known
		addresses[i] = l.Addr().String()
	}
	return addresses, nil
}

func listen(ctx context.Context, host string) (net.Listener, error) {
	var err error
	for range 100 {
		var l net.Listener
		port := fmt.Sprint(10000 + rand.IntN(20000))
		if l, err = new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(host, port)); err == nil {
			return l, nil
		}
	}
	return nil, err
}

// Check returns the address if nobody listens on it, one that Take chooses if its port is 0.
func Check(ctx context.Context, address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	if port == "0" {
		taken, err := Take(ctx, host, 1)
		if err != nil {
			return "", err
		}
		return taken[0], nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
