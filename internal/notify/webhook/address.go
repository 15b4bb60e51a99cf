package webhook

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Addresses decides which network addresses requests may go to: those of the public internet, and what is
// allowed beyond.
type Addresses struct {
	// Allow are networks that are not public and may be called all the same.
	Allow []netip.Prefix
}

// global is what of IPv6 is given out for use on the internet at all.
func global() netip.Prefix { return netip.MustParsePrefix("2000::/3") }

// special lists the networks that look like public ones and are not: those of RFC 6890 and its successors
// that package netip has no name for. Translations of IPv4 into IPv6 are among them, since they would lead
// to any IPv4 address.
func special() []netip.Prefix {
	var list []netip.Prefix
	for _, s := range []string{
		"0.0.0.0/8",       // this network
		"100.64.0.0/10",   // carrier-grade NAT; clouds have metadata services there
		"192.0.0.0/24",    // protocol assignments, also a metadata service
		"192.0.2.0/24",    // documentation
		"192.88.99.0/24",  // relays of 6to4
		"198.18.0.0/15",   // benchmarks
		"198.51.100.0/24", // documentation
		"203.0.113.0/24",  // documentation
		"240.0.0.0/4",     // reserved, and broadcast
		"2001::/23",       // protocol assignments, also Teredo
		"2001:db8::/32",   // documentation
		"2002::/16",       // 6to4
		"3fff::/20",       // documentation
	} {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

// policy is Addresses made ready.
type policy struct {
	allow, special []netip.Prefix
	global         netip.Prefix
}

func newPolicy(a Addresses) *policy {
	return &policy{allow: a.Allow, special: special(), global: global()}
}

// allows reports whether requests may go to that address.
func (p *policy) allows(a netip.Addr) bool {
	if a = a.Unmap(); a.Zone() != "" {
		return false
	}
	in := func(n netip.Prefix) bool { return n.Contains(a) }
	switch {
	case slices.ContainsFunc(p.allow, in):
		return true
	case !a.IsValid(), a.IsUnspecified(), a.IsLoopback(), a.IsPrivate(), a.IsMulticast(),
		a.IsLinkLocalUnicast(), a.Is6() && !p.global.Contains(a):
		return false
	}
	return !slices.ContainsFunc(p.special, in)
}

// addressError says that an address may not be called.
type addressError struct {
	addr  netip.Addr
	plain bool // because it is not a loopback address and the request is not encrypted
}

func (e *addressError) Error() string {
	if e.plain {
		return fmt.Sprintf("%s is not called without TLS", e.addr)
	}
	return fmt.Sprintf("the address %s is not public", e.addr)
}

// check reports, as an *addressError, that a connection to that resolved address may not be made. It is
// asked with the very address that the system is about to connect to, so that it does not matter what a
// name stood for when somebody looked before.
func (p *policy) check(address string, plain bool) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("the address %q is not one of IP: %w", address, err)
	}
	a := ap.Addr().Unmap()
	switch {
	case !p.allows(a):
		return &addressError{addr: a}
	case plain && !a.IsLoopback():
		return &addressError{addr: a, plain: true}
	}
	return nil
}

// isLoopbackName reports whether a URL's host names this machine by itself.
func isLoopbackName(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().IsLoopback()
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// isNumeric reports whether a host that is not an IP address would be read as one by somebody all the
// same, such as 0x7f.1 or 2130706433: the last label of a name is never a number.
func isNumeric(host string) bool {
	if net.ParseIP(host) != nil {
		return false
	}
	host = strings.TrimSuffix(host, ".")
	last := strings.ToLower(host[strings.LastIndexByte(host, '.')+1:])
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return last == "" || strings.Trim(last, "0123456789") == ""
}
