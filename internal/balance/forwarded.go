package balance

import (
	"bytes"
	"net/http"
	"net/netip"
	"strings"

	"github.com/esh3artech/esh3ar/internal/peer"
)

// via is what a gateway calls itself in the Via field (RFC 9110, 7.6.3).
const via = "esh3ar"

// forwarded is what requests of one connection are to say about who sent them. What the peer itself says of
// others counts only if it is trusted; else it is left out, so that nodes see nothing that a client made up.
type forwarded struct {
	trusted bool
	address string // the peer's, as X-Forwarded-For has it
	element string // the peer's, as Forwarded has it
	proto   string // http or https
	fixed   []byte // all fields, for a peer that is not trusted

	// Of the request at hand, for a trusted peer.
	chain, elements []byte
	hasProto        bool
}

func newForwarded(remote string, tls bool, trusted peer.Trusted) *forwarded {
	f := &forwarded{proto: "http", address: "unknown", element: "unknown"}
	if tls {
		f.proto = "https"
	}
	if ap, err := netip.ParseAddrPort(remote); err == nil {
		a := ap.Addr().Unmap().WithZone("")
		f.trusted = trusted.Has(a)
		f.address, f.element = a.String(), a.String()
		if a.Is6() {
			f.element = `"[` + f.address + `]"`
		}
	}
	if !f.trusted {
		f.fixed = f.append(nil)
	}
	return f
}

// begin starts a request.
func (f *forwarded) begin() { f.chain, f.elements, f.hasProto = f.chain[:0], f.elements[:0], false }

// take notes a field about who sent the request. It reports whether the field is not to go on as it is.
func (f *forwarded) take(name, value []byte) bool {
	if !f.trusted {
		return true
	}
	switch {
	case bytes.EqualFold(name, []byte("X-Forwarded-For")):
		f.chain = append(append(f.chain, value...), ", "...)
	case bytes.EqualFold(name, []byte("Forwarded")):
		f.elements = append(append(f.elements, value...), ", "...)
	case bytes.EqualFold(name, []byte("X-Forwarded-Proto")):
		f.hasProto = true
		return false
	default:
		return false
	}
	return true
}

// appendTo appends the fields about who sent the request.
func (f *forwarded) appendTo(out []byte) []byte {
	if !f.trusted {
		return append(out, f.fixed...)
	}
	return f.append(out)
}

func (f *forwarded) append(out []byte) []byte {
	out = append(append(out, "X-Forwarded-For: "...), f.chain...)
	out = append(append(out, f.address...), "\r\n"...)
	out = append(append(out, "Forwarded: "...), f.elements...)
	out = append(append(append(append(out, "for="...), f.element...), ";proto="...), f.proto...)
	out = append(out, "\r\n"...)
	if !f.hasProto {
		out = append(append(append(out, "X-Forwarded-Proto: "...), f.proto...), "\r\n"...)
	}
	return append(out, "Via: 1.1 "+via+"\r\n"...)
}

// setOn does the same for a request that net/http has read, whose own fields are in.
func (f *forwarded) setOn(out, in http.Header) {
	join := func(name, own string) {
		if theirs := in.Values(name); f.trusted && len(theirs) > 0 {
			own = strings.Join(theirs, ", ") + ", " + own
		}
		out.Set(name, own)
	}
	join("X-Forwarded-For", f.address)
	join("Forwarded", "for="+f.element+";proto="+f.proto)
	for _, name := range [...]string{"X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Real-Ip"} {
		out.Del(name)
		if theirs := in.Values(name); f.trusted && len(theirs) > 0 {
			out[name] = theirs
		}
	}
	if out.Get("X-Forwarded-Proto") == "" {
		out.Set("X-Forwarded-Proto", f.proto)
	}
	out.Add("Via", "1.1 "+via)
}
