package http1

import (
	"io"
	"net"
	"testing"
)

func TestTokensAndHosts(t *testing.T) {
	for in, want := range map[string]bool{"": false, "Content-Type": true, "x~!#$%&'*+.^`|_9": true, "a b": false, "a:": false, "é": false, "a\x00": false, "a(b)": false} {
		if got := IsToken([]byte(in)); got != want {
			t.Errorf("%q is a token: %v", in, got)
		}
	}
	for in, want := range map[string]bool{"": false, "example.com:80": true, "[::1]:8080": true, "a/b": false, "user@a": false, "a b": false, "a,b": false} {
		if got := IsPlainHost([]byte(in)); got != want {
			t.Errorf("%q is a host: %v", in, got)
		}
	}
}

// A token is what is left of visible ASCII without the delimiters.
func FuzzIsToken(f *testing.F) {
	f.Add([]byte("Content-Type"))
	f.Add([]byte("a b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		want := len(b) > 0
		for _, c := range b {
			want = want && c > ' ' && c < 0x7f && !isDelimiter(c)
		}
		if got := IsToken(b); got != want {
			t.Errorf("%q: %v, want %v", b, got, want)
		}
	})
}

// isDelimiter knows the other side of RFC 9110, 5.6.2: what is no token is one of these, a blank or no ASCII.
func isDelimiter(c byte) bool {
	for _, d := range []byte(`"(),/:;<=>?@[\]{}`) {
		if c == d {
			return true
		}
	}
	return false
}

func TestHandedConn(t *testing.T) {
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		defer client.Close()
		io.WriteString(client, " and the rest")
	}()
	c := &HandedConn{Conn: server, Rest: []byte("what was read")}
	small := make([]byte, 4)
	if n, err := c.Read(small); n != 4 || err != nil || string(small) != "what" {
		t.Errorf("read %q, %v", small[:n], err)
	}
	all, err := io.ReadAll(c)
	if err != nil || string(all) != " was read and the rest" || c.Rest != nil {
		t.Errorf("read %q, %v; %q is left", all, err, c.Rest)
	}
}
