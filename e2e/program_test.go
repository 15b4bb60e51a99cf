package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestFirstStart starts the program the way a newcomer does, with nothing set, and uses what it prints.
func TestFirstStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	greeting := func() (url, key, text string) {
		s := newcomer(t, dir, "127.0.0.1:0")
		if err := s.ready(); err != nil {
			t.Fatal(err)
		}
		a := s.api()
		s.await("the greeting to show the key", func() bool {
			raw, err := os.ReadFile(filepath.Join(dir, "data", "dev-key"))
			a.key = strings.TrimSpace(string(raw))
			return err == nil && a.key != ""
		})
		if _, err := a.send(t.Context(), outgoing{To: "alice", Content: "hello"}); err != nil {
			t.Errorf("the development key does not work: %v", err)
		}
		s.stop()
		return s.url, a.key, s.out.String()
	}

	url, key, text := greeting()
	for _, want := range []string{url, key, "curl", "listen", "new deployment"} {
		if !strings.Contains(text, want) {
			t.Errorf("the greeting lacks %q:\n%s", want, text)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "data", "dev-key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("dev-key: %v, %v; want mode 0600", info, err)
	}

	// The next start goes on with the same key.
	_, again, text := greeting()
	if again != key || !strings.Contains(text, key) || strings.Contains(text, "new deployment") {
		t.Errorf("the second start has the key %s, the first had %s:\n%s", again, key, text)
	}
}

// newcomer starts the program in dir without a word of configuration but the address.
func newcomer(t *testing.T, dir, address string) *server {
	t.Helper()
	s := prepare(t, []string{program, "serve", "--listen", address})
	s.cmd.Dir = dir
	s.cmd.Env = os.Environ()
	s.launch()
	return s
}

// TestGreetingWorks runs the very command line that the greeting offers.
func TestGreetingWorks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	address := freePorts(t, 1)[0]
	s := newcomer(t, dir, address)
	if err := s.ready(); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(dir, "data", "dev-key"))
	if err != nil {
		t.Fatal(err)
	}
	s.stop()
	line := regexp.MustCompile(`(?m)curl .*$`).FindString(s.out.String())
	if !strings.Contains(line, strings.TrimSpace(string(key))) {
		t.Fatalf("no curl line with the key in:\n%s", s.out)
	}

	// The same address again, to talk to: the line was read after the first server's end.
	again := newcomer(t, dir, address)
	if err := again.ready(); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "sh", "-c", line+" --silent --show-error").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "202") || !strings.Contains(string(out), `"status":"accepted"`) {
		t.Errorf("%s\nanswered (%v):\n%s", line, err, out)
	}
	again.stop()
}

// TestWrongConfigurationStartsNothing shows that a wrong value ends the program before it touches
// anything.
func TestWrongConfigurationStartsNothing(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	cmd := exec.CommandContext(t.Context(), program, "serve", "--listen", "127.0.0.1:0", "--data", data, "--window", "0")
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != 2 || !strings.Contains(string(out), `window "0"`) {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := os.Stat(data); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the data directory was touched: %v", err)
	}
}

// TestShardsAreFixed shows that a deployment cannot be opened with another number of shards.
func TestShardsAreFixed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start(t, dir).stop()
	s := launch(t, dir, "--shards", "3")
	<-s.gone
	if s.err == nil || !strings.Contains(s.tail(4<<10), "shards") {
		t.Errorf("%v\n%s", s.err, s.tail(4<<10))
	}
}

// TestOneServerADirectory shows that a second server over a directory in use is refused, and does the
// first no harm.
func TestOneServerADirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, dir)
	second := launch(t, dir)
	select {
	case <-second.gone:
	case <-time.After(bootLimit):
		t.Fatal("the second server goes on")
	}
	if second.err == nil {
		t.Error("the second server ended without an error")
	}
	s.api().mustSend(t, outgoing{To: "alice", Content: "still there"})
	s.stop()
}

// TestDrainFinishesRequests shows that a request under way at a SIGTERM gets its answer.
func TestDrainFinishesRequests(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	conn, finish := halfRequest(t, s)
	signal(t, s, syscall.SIGTERM)
	s.await("the server to refuse new connections", func() bool {
		probe, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err == nil {
			probe.Close()
		}
		return err != nil
	})
	finish()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("the answer to the request under way: %v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		body, err := io.ReadAll(resp.Body)
		t.Errorf("HTTP %d: %s %v", resp.StatusCode, body, err)
	}
	<-s.gone
	if s.err != nil {
		t.Errorf("the server ended with %v", s.err)
	}
}

// TestSecondSignalForces shows that a second signal ends a server that still drains.
func TestSecondSignalForces(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), "--drain-timeout", "10m", "--body-timeout", "10m")
	halfRequest(t, s)
	signal(t, s, syscall.SIGINT)
	// A listener that is closed shows that the first signal has arrived; two at once may become one.
	s.await("the server to drain", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	signal(t, s, syscall.SIGINT)
	select {
	case <-s.gone:
	case <-time.After(stopLimit):
		t.Fatal("the second signal does not end the server")
	}
}

// halfRequest opens a request whose body does not end until finish is called.
func halfRequest(t *testing.T, s *server) (conn net.Conn, finish func()) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	body := `{"to": "alice", "content": "slow"}`
	// The interim answer shows that the server has begun to read the body.
	fmt.Fprintf(conn, "POST /v1/messages HTTP/1.1\r\nHost: esh3ar\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"+
		"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n", apiKey, len(body))
	if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	interim := make([]byte, len("HTTP/1.1 100 Continue\r\n\r\n"))
	if _, err := io.ReadFull(conn, interim); err != nil || !strings.HasPrefix(string(interim), "HTTP/1.1 100") {
		t.Fatalf("the interim answer: %q, %v", interim, err)
	}
	return conn, func() {
		if _, err := io.WriteString(conn, body); err != nil {
			t.Errorf("finishing the request: %v", err)
		}
	}
}

func signal(t *testing.T, s *server, sig syscall.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// TestSlowClientsAreCutOff shows that neither a header nor a body may take for ever.
func TestSlowClientsAreCutOff(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), "--header-timeout", "200ms", "--body-timeout", "200ms")
	header, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer header.Close()
	fmt.Fprint(header, "POST /v1/messages HTTP/1.1\r\nHost: esh3ar\r\n")
	body, _ := halfRequest(t, s)
	for name, conn := range map[string]net.Conn{"header": header, "body": body} {
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a slow %s: %v after %q", name, err, answer)
		}
	}
	s.stop()
}

// TestMessagesSurviveACleanStop is the crash test's calm sister: stop, start, and all is there.
func TestMessagesSurviveACleanStop(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, dir)
	a := s.api()
	var sent []string
	for i := range 20 {
		sent = append(sent, a.mustSend(t, outgoing{To: "alice", Content: fmt.Sprint(i)}).ID)
	}
	s.stop()

	s = start(t, dir)
	got := make(chan delivery, len(sent)+1)
	d, err := dial(s.url, token(t, "alice", time.Hour), func(m delivery) { got <- m })
	if err != nil {
		t.Fatal(err)
	}
	defer d.hangUp()
	for i, id := range sent {
		select {
		case m := <-got:
			if m.ID != id {
				t.Fatalf("message %d is %s, want %s", i, m.ID, id)
			}
			if err := d.acknowledge(m.ID); err != nil {
				t.Fatal(err)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("only %d of %d messages came", i, len(sent))
		}
	}
	s.awaitStatus(s.api(), sent[len(sent)-1], "delivered")
	s.stop()
}

// TestTokensOfStrangers shows that the hub lets nobody in without a token of this server.
func TestTokensOfStrangers(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	for name, tok := range map[string]string{
		"expired":        token(t, "alice", -time.Hour),
		"another secret": signedToken(t, "some other secret, of another server", "alice", time.Hour),
		"nonsense":       "abc",
		"none":           "",
	} {
		d, err := dial(s.url, tok, func(delivery) {})
		if err == nil {
			d.hangUp()
		}
		if !unauthorized(err) {
			t.Errorf("%s: %v, want HTTP 401", name, err)
		}
	}
	s.stop()
}
