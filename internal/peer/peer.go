// Package peer tells who is at the other end of a connection when proxies stand between: it believes what
// trusted ones say of their clients, and nobody else.
package peer

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/pires/go-proxyproto"
)

// Trusted are the networks whose word is taken for who their clients are. The zero Trusted trusts nobody.
type Trusted []netip.Prefix

// ParseTrusted reads networks in CIDR notation and single addresses.
func ParseTrusted(list []string) (Trusted, error) {
	var t Trusted
	for _, s := range list {
		if p, err := netip.ParsePrefix(s); err == nil {
			t = append(t, p.Masked())
			continue
		}
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("%q is neither a network such as 10.0.0.0/8 nor an address", s)
		}
		a = a.WithZone("").Unmap()
		t = append(t, netip.PrefixFrom(a, a.BitLen()))
	}
	return t, nil
}

// Has reports whether an address is trusted.
func (t Trusted) Has(a netip.Addr) bool {
	a = a.WithZone("").Unmap()
	for _, p := range t {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// HasPeer reports whether the other end of a connection is trusted.
func (t Trusted) HasPeer(remote net.Addr) bool {
	a, ok := addrOf(remote)
	return ok && t.Has(a)
}

func addrOf(a net.Addr) (netip.Addr, bool) {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return ap.Addr().Unmap(), ap.IsValid()
	}
	if a == nil {
		return netip.Addr{}, false
	}
	ap, err := netip.ParseAddrPort(a.String())
	return ap.Addr().Unmap(), err == nil
}

// Client returns the address of a request's client: the last one of X-Forwarded-For that is not trusted,
// if the peer is, else the peer itself. Remote is an http.Request's RemoteAddr, and what is returned has that form; the port is 0
// where it is not known.
func (t Trusted) Client(remote string, h http.Header) string {
	if len(t) == 0 {
		return remote
	}
	ap, err := netip.ParseAddrPort(remote)
	if err != nil || !t.Has(ap.Addr()) {
		return remote
	}
	client := remote
	lines := h["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0; i-- {
		hops := strings.Split(lines[i], ",")
		for j := len(hops) - 1; j >= 0; j-- {
			a, err := netip.ParseAddr(strings.TrimSpace(hops[j]))
			if err != nil {
				return client // beyond it nothing can be known
			}
			client = netip.AddrPortFrom(a.Unmap(), 0).String()
			if !t.Has(a) {
				return client
			}
		}
	}
	return client
}

// spokenFor are the fields of which a proxy adds at least one to what it passes on for somebody else.
var spokenFor = [...]string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "Forwarded", "Via"}

// Speaks reports whether a request is a trusted peer's own, and not one that it passes on for somebody else.
func (t Trusted) Speaks(r *http.Request) bool {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !t.Has(ap.Addr()) {
		return false
	}
	for _, name := range spokenFor {
		if len(r.Header[name]) > 0 {
			return false
		}
	}
	return true
}

// Handler serves requests of which RemoteAddr is the client's.
func (t Trusted) Handler(next http.Handler) http.Handler {
	if len(t) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.RemoteAddr = t.Client(r.RemoteAddr, r.Header)
		next.ServeHTTP(w, r)
	})
}

// Listener takes the PROXY protocol (version 1 or 2) from trusted peers that speak it: the RemoteAddr of such
// a connection is what its header says. It is read within the time-out, by the first Read or RemoteAddr.
func (t Trusted) Listener(l net.Listener, timeout time.Duration) net.Listener {
	if len(t) == 0 {
		return l
	}
	return &proxyproto.Listener{
		Listener:          l,
		ReadHeaderTimeout: timeout,
		ConnPolicy: func(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			if t.HasPeer(o.Upstream) {
				return proxyproto.USE, nil
			}
			return proxyproto.SKIP, nil // what looks like a header is a bad request
		},
	}
}

// AppendHeader appends the header of the PROXY protocol's version 2 that tells who the client is.
func AppendHeader(dst []byte, client, server net.Addr) ([]byte, error) {
	b, err := proxyproto.HeaderProxyFromAddrs(2, client, server).Format()
	return append(dst, b...), err
}
