package signalr_test

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/signalr"
	"github.com/esh3artech/esh3ar/signalr/client"
)

// The memory of idle connections is measured from outside: the test binary
// runs itself again as a server and as clients, whose source addresses differ
// so that ports and descriptors suffice, and reads the server's resident
// memory from the kernel.

const (
	roleEnv     = "SIGNALR_TEST_ROLE"
	targetEnv   = "SIGNALR_TEST_TARGET"
	sourceEnv   = "SIGNALR_TEST_SOURCE"
	countEnv    = "SIGNALR_TEST_COUNT"
	idleTotal   = 10_000
	idleClients = 4
)

// runRole runs the role that the environment names, if any.
func runRole() bool {
	var err error
	switch os.Getenv(roleEnv) {
	case "":
		return false
	case "server":
		err = idleServer()
	case "client":
		err = idleClient()
	case "reader":
		err = reader()
	case "storm":
		err = storm()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

// secret signs the tokens of clients, as that of an HS256 JWT does.
var secret = []byte("a secret that only tests know")

func signToken(user string) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(user))
	return user + "." + hex.EncodeToString(mac.Sum(nil))
}

func verifyToken(r *http.Request) (signalr.Identity, error) {
	token := signalr.AccessToken(r)
	user, _, _ := strings.Cut(token, ".")
	if !hmac.Equal([]byte(token), []byte(signToken(user))) {
		return signalr.Identity{}, errors.New("bad token")
	}
	return signalr.Identity{UserID: user}, nil
}

// idleServer serves a hub. It prints its address and, at each line that it
// reads, its number of connections and of goroutines. When the line is a
// number, it closes all connections before, at that rate, with allowReconnect;
// when it is "rest", it does what the runtime does by itself after some minutes.
func idleServer() error {
	server, err := signalr.NewServer(signalr.Options{})
	if err != nil {
		return err
	}
	hub, err := server.NewHub(signalr.HubOptions{
		Authenticate:  verifyToken,
		ClientTimeout: time.Hour, // some clients are silent
	})
	if err != nil {
		return err
	}
	echoHub(hub)
	mux := http.NewServeMux()
	hub.Mount(mux, "/hub")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	web := &http.Server{Handler: mux}
	go func() { _ = web.Serve(ln) }()
	fmt.Println(ln.Addr())
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if in.Text() == "rest" {
			debug.FreeOSMemory()
		}
		if rate, err := strconv.Atoi(in.Text()); err == nil {
			if err := hub.All().Close(context.Background(), "", true, rate); err != nil {
				return err
			}
		}
		fmt.Println(hub.Len(), runtime.NumGoroutine())
	}
	_ = web.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = server.Shutdown(ctx)
	return nil
}

// idleClient opens connections, with negotiation and handshake, says when it
// is done and holds them until its input ends.
func idleClient() error {
	n, err := strconv.Atoi(os.Getenv(countEnv))
	if err != nil {
		return err
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(os.Getenv(sourceEnv))}}
	target := os.Getenv(targetEnv)
	web := http.Client{Transport: &http.Transport{DialContext: dialer.DialContext}}
	held := make([]net.Conn, 0, n)
	for range n {
		resp, err := web.Post("http://"+target+"/hub/negotiate?negotiateVersion=1&access_token="+signToken("user"), "text/plain", nil)
		if err != nil {
			return err
		}
		var answer negotiated
		err = json.NewDecoder(resp.Body).Decode(&answer)
		_ = resp.Body.Close()
		if err != nil {
			return err
		}
		conn, err := dialer.Dial("tcp", target)
		if err != nil {
			return err
		}
		held = append(held, conn)
		_, err = fmt.Fprintf(conn, "GET /hub?id=%s&access_token=%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", answer.ConnectionToken, signToken("user"), target)
		if err != nil {
			return err
		}
		br := bufio.NewReader(conn)
		upgraded, err := http.ReadResponse(br, nil)
		if err != nil || upgraded.StatusCode != http.StatusSwitchingProtocols {
			return fmt.Errorf("upgrade: %v, %v", upgraded, err)
		}
		if _, err := conn.Write(frame(0x80|opText, `{"protocol":"json","version":1}`+"\x1e")); err != nil {
			return err
		}
		if _, err := io.ReadFull(br, make([]byte, len("\x81\x03{}\x1e"))); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	for _, c := range held {
		_ = c.Close()
	}
	return nil
}

// reader opens one connection and reads to its end.
func reader() error {
	c, err := client.New(os.Getenv(targetEnv), client.Options{SkipNegotiation: true, Reconnect: client.NoReconnect, ServerTimeout: time.Hour})
	if err != nil {
		return err
	}
	if err := c.Start(context.Background()); err != nil {
		return err
	}
	<-c.Done()
	return nil
}

// storm starts clients all at once and says when all are connected. It holds
// them, as they are closed and come back, until its input ends.
func storm() error {
	n, err := strconv.Atoi(os.Getenv(countEnv))
	if err != nil {
		return err
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(os.Getenv(sourceEnv))}}
	starts := make(chan error, n)
	clients := make([]*client.Client, n)
	for i := range clients {
		clients[i], err = client.New("http://"+os.Getenv(targetEnv)+"/hub", client.Options{
			Dial:             dialer.DialContext,
			HandshakeTimeout: time.Minute,
			ServerTimeout:    time.Hour,
			AccessToken: func(context.Context) (string, error) {
				return signToken("user" + strconv.Itoa(i)), nil
			},
			// As the official clients do: at once, and soon after that.
			Reconnect: func(attempt int, _ error) (time.Duration, bool) {
				return min(time.Duration(attempt-1)*2*time.Second, 10*time.Second), true
			},
		})
		if err != nil {
			return err
		}
		go func() { starts <- clients[i].Start(context.Background()) }()
	}
	for range clients {
		if err := <-starts; err != nil {
			return err
		}
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// A role is a process that plays one.
type role struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startRole(b *testing.B, env ...string) *role {
	b.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	r := &role{cmd: exec.Command(exe)}
	r.cmd.Env = append(os.Environ(), env...)
	r.cmd.Stderr = os.Stderr
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		b.Fatal(err)
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	r.out = bufio.NewScanner(out)
	if err := r.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	return r
}

func (r *role) line(b *testing.B) string {
	b.Helper()
	if !r.out.Scan() {
		b.Fatalf("a process ended: %v", r.out.Err())
	}
	return r.out.Text()
}

// ask sends a line to a server and returns its answer.
func (r *role) ask(b *testing.B, line string) (conns, goroutines int) {
	b.Helper()
	fmt.Fprintln(r.in, line)
	if _, err := fmt.Sscan(r.line(b), &conns, &goroutines); err != nil {
		b.Fatal(err)
	}
	return conns, goroutines
}

func (r *role) stop() {
	_ = r.in.Close()
	_ = r.cmd.Wait()
}

// residentKiB is the resident memory of a process.
func residentKiB(b *testing.B, pid int) int {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatalf("needs /proc: %v", err)
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		b.Fatal(err)
	}
	return kib
}

// BenchmarkIdleConnections prints the server's resident memory and goroutines
// for each of 10,000 idle connections: KiB/conn right after they were opened,
// with what garbage there is, and KiB/conn-at-rest once the garbage is gone.
func BenchmarkIdleConnections(b *testing.B) {
	for range b.N {
		server := startRole(b, roleEnv+"=server")
		defer server.stop()
		address := server.line(b)
		ask := func(line string) (conns, goroutines int) { return server.ask(b, line) }
		_, goroutinesBefore := ask("")
		before := residentKiB(b, server.cmd.Process.Pid)
		begun := time.Now()
		var clients []*role
		for i := range idleClients {
			clients = append(clients, startRole(b, roleEnv+"=client", targetEnv+"="+address,
				fmt.Sprintf("%s=127.0.0.%d", sourceEnv, i+2), fmt.Sprintf("%s=%d", countEnv, idleTotal/idleClients)))
		}
		for _, c := range clients {
			defer c.stop()
			if line := c.line(b); line != "ready" {
				b.Fatal(line)
			}
		}
		opening := time.Since(begun)
		conns, goroutines := ask("")
		if conns != idleTotal {
			b.Fatalf("%d connections", conns)
		}
		b.ReportMetric(opening.Seconds(), "s-to-open")
		b.ReportMetric(float64(residentKiB(b, server.cmd.Process.Pid)-before)/idleTotal, "KiB/conn")
		ask("rest")
		b.ReportMetric(float64(residentKiB(b, server.cmd.Process.Pid)-before)/idleTotal, "KiB/conn-at-rest")
		b.ReportMetric(float64(goroutines-goroutinesBefore)/idleTotal, "goroutines/conn")
	}
}

// BenchmarkConnectStorm lets 10,000 clients of four processes connect at once,
// with negotiation, signed tokens and handshakes; then the server closes all of
// them with allowReconnect, 2,000 a second, and they come back.
func BenchmarkConnectStorm(b *testing.B) {
	const rate = 2000
	for range b.N {
		server := startRole(b, roleEnv+"=server")
		defer server.stop()
		address := server.line(b)
		begun := time.Now()
		var clients []*role
		for i := range idleClients {
			clients = append(clients, startRole(b, roleEnv+"=storm", targetEnv+"="+address,
				fmt.Sprintf("%s=127.0.0.%d", sourceEnv, i+2), fmt.Sprintf("%s=%d", countEnv, idleTotal/idleClients)))
		}
		for _, c := range clients {
			defer c.stop()
			if line := c.line(b); line != "ready" {
				b.Fatal(line)
			}
		}
		b.ReportMetric(time.Since(begun).Seconds(), "s-to-connect")

		begun = time.Now()
		server.ask(b, strconv.Itoa(rate))
		b.ReportMetric(time.Since(begun).Seconds(), "s-to-close")
		eventually(b, "all are back", func() bool { conns, _ := server.ask(b, ""); return conns == idleTotal })
		b.ReportMetric(time.Since(begun).Seconds(), "s-to-return")
	}
}
