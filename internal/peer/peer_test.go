package peer

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func trust(t *testing.T, list ...string) Trusted {
	t.Helper()
	trusted, err := ParseTrusted(list)
	if err != nil {
		t.Fatal(err)
	}
	return trusted
}

func TestParseTrusted(t *testing.T) {
	for _, bad := range []string{"", "10.0.0.0/33", "host", "10.0.0.1:80"} {
		if _, err := ParseTrusted([]string{bad}); err == nil {
			t.Errorf("%q is taken for a network", bad)
		}
	}
}

func TestClient(t *testing.T) {
	trusted := trust(t, "10.0.0.0/8", "192.0.2.7", "fd00::/8")
	for _, c := range []struct {
		name, remote string
		forwarded    []string
		want         string
	}{
		{"nothing forwarded", "10.1.1.1:55", nil, "10.1.1.1:55"},
		{"a stranger is not believed", "198.51.100.1:55", []string{"203.0.113.9"}, "198.51.100.1:55"},
		{"a proxy is", "10.1.1.1:55", []string{"203.0.113.9"}, "203.0.113.9:0"},
		{"mapped addresses are the same", "[::ffff:10.1.1.1]:55", []string{"::ffff:203.0.113.9"}, "203.0.113.9:0"},
		{"through two proxies", "10.1.1.1:55", []string{"203.0.113.9, 192.0.2.7"}, "203.0.113.9:0"},
		{"what a stranger told the first proxy is not believed", "10.1.1.1:55", []string{"1.1.1.1, 203.0.113.9, fd00::1"}, "203.0.113.9:0"},
		{"several lines are one list", "10.1.1.1:55", []string{"1.1.1.1, 203.0.113.9", "10.2.2.2"}, "203.0.113.9:0"},
		{"nonsense ends the chain", "10.1.1.1:55", []string{"203.0.113.9, unknown, 10.2.2.2"}, "10.2.2.2:0"},
		{"all are proxies", "10.1.1.1:55", []string{"10.3.3.3, 10.2.2.2"}, "10.3.3.3:0"},
		{"no address", "pipe", []string{"203.0.113.9"}, "pipe"},
	} {
		if got := trusted.Client(c.remote, http.Header{"X-Forwarded-For": c.forwarded}); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestListener(t *testing.T) {
	header, err := AppendHeader(nil, &net.TCPAddr{IP: net.IPv4(203, 0, 113, 9), Port: 4711}, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, trusted, sent, remote, read string
	}{
		{"a trusted peer", "127.0.0.0/8", string(header) + "hello\n", "203.0.113.9:4711", "hello\n"},
		{"a trusted peer that does not speak it", "127.0.0.0/8", "hello\n", "", "hello\n"},
		{"version 1", "127.0.0.1", "PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\nhello\n", "203.0.113.9:4711", "hello\n"},
		{"a stranger", "10.0.0.0/8", "PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n", "", "PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inner, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			l := trust(t, c.trusted).Listener(inner, 5*time.Second)
			defer l.Close()
			client, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if _, err := io.WriteString(client, c.sent); err != nil {
				t.Fatal(err)
			}
			server, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			read, err := bufio.NewReader(server).ReadString('\n')
			if err != nil || read != c.read {
				t.Errorf("read %q, %v", read, err)
			}
			want := c.remote
			if want == "" {
				want = client.LocalAddr().String()
			}
			if got := server.RemoteAddr().String(); got != want {
				t.Errorf("the client is %s, want %s", got, want)
			}
		})
	}
}
