package signalr_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
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
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

// idleServer serves a hub. It prints its address, and at each line that it
// reads its number of connections and of goroutines.
func idleServer() error {
	server, err := signalr.NewServer(signalr.Options{})
	if err != nil {
		return err
	}
	hub, err := server.NewHub(signalr.HubOptions{
		Authenticate:  func(*http.Request) (signalr.Identity, error) { return signalr.Identity{UserID: "user"}, nil },
		ClientTimeout: time.Hour, // the clients are silent
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
		resp, err := web.Post("http://"+target+"/hub/negotiate?negotiateVersion=1", "text/plain", nil)
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
		_, err = fmt.Fprintf(conn, "GET /hub?id=%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", answer.ConnectionToken, target)
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
// for each of 10,000 idle connections. The memory is read when it is at rest:
// the garbage of the opening is collected, but the heap is not forced to give
// memory back.
func BenchmarkIdleConnections(b *testing.B) {
	for range b.N {
		server := startRole(b, roleEnv+"=server")
		defer server.stop()
		address := server.line(b)
		stats := func() (conns, goroutines int) {
			fmt.Fprintln(server.in)
			fmt.Sscan(server.line(b), &conns, &goroutines)
			return conns, goroutines
		}
		_, goroutinesBefore := stats()
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
		conns, goroutines := stats()
		if conns != idleTotal {
			b.Fatalf("%d connections", conns)
		}
		b.ReportMetric(opening.Seconds(), "s-to-open")
		b.ReportMetric(float64(residentKiB(b, server.cmd.Process.Pid)-before)/idleTotal, "KiB/conn")
		b.ReportMetric(float64(goroutines-goroutinesBefore)/idleTotal, "goroutines/conn")
	}
}
