package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
)

// freeAddress returns the address if nobody listens on it, with a port if it has none. The port lies below those
// that systems give to outgoing connections, so that it stays free while a process is away.
func freeAddress(ctx context.Context, address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	for range 100 {
		wanted := port
		if port == "0" {
			wanted = fmt.Sprint(10000 + rand.IntN(20000))
		}
		var l net.Listener
		if l, err = new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(host, wanted)); err == nil {
			address = l.Addr().String()
			return address, l.Close()
		}
		if port != "0" {
			break
		}
	}
	return "", err
}
