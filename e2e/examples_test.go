package e2e

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const examples = "../examples"

// TestExamples builds the programs in examples/ and runs them together against a server: what the
// business system sends the devices show, once each, and its event stream tells; over a restart of the
// server too.
func TestExamples(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat(examples + "/node_modules/typescript"); err != nil {
		t.Fatalf("the examples' modules are not installed: run make setup (%v)", err)
	}
	build := exec.CommandContext(t.Context(), "npm", "run", "build", "--silent")
	build.Dir = examples
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the examples: %v\n%s", err, out)
	}
	pages := httptest.NewServer(http.FileServer(http.Dir(examples + "/browser-device/public")))
	defer pages.Close()

	dir := t.TempDir()
	options := []string{"--ack-timeout", "300ms", "--backoff-base", "50ms", "--allowed-origins", pages.URL, "--webhook-allow", "127.0.0.0/8",
		"--listen", freePorts(t, 1)[0]}
	s := start(t, dir, options...)
	env := []string{"ESH3AR_URL=" + s.url, "ESH3AR_API_KEY=" + apiKey, "ESH3AR_CURSOR_FILE=" + filepath.Join(t.TempDir(), "cursor")}

	device := example(t, "node-device", env, "dist/device.js", "amina")
	device.await("connected")
	follow := example(t, "node-business", env, "dist/follow.js")
	follow.await("following")
	page := example(t, "../e2e/js", env, "page.mjs", chromium(t), pages.URL+"/index.html#"+
		url.Values{"url": {s.url}, "token": {token(t, "layla", time.Hour)}}.Encode())
	page.await("connected")

	// send runs the sending example and returns the message's id.
	send := func(args ...string) string {
		t.Helper()
		sender := example(t, "node-business", env, append([]string{"dist/send.js"}, args...)...)
		fields := strings.Fields(sender.await("accepted "))
		sender.end()
		return fields[1]
	}
	shows := func(id, text string) {
		t.Helper()
		if _, err := io.WriteString(page.in, id+"\n"); err != nil {
			t.Fatal(err)
		}
		var item struct {
			Count, Markup int
			Text          string
		}
		line := page.await(id)
		if err := json.Unmarshal([]byte(line), &item); err != nil || item.Count != 1 || item.Markup != 0 || !strings.HasPrefix(item.Text, text) {
			t.Errorf("the page shows %s, %v", line, err)
		}
	}

	// The device in Node receives.
	const text = "Your order is on its way"
	id := send("amina", text, "order 17: sent")
	if again := send("amina", text, "order 17: sent"); again != id {
		t.Errorf("one key made the messages %s and %s", id, again)
	}
	if line := device.await(id); !strings.HasSuffix(line, ": "+text) {
		t.Errorf("the device shows %q", line)
	}
	follow.await(id + " delivered")

	// The page shows what is meant as text as text.
	const markup = "<b>Your code</b> is ٤٢"
	id = send("layla", markup)
	shows(id, markup)
	follow.await(id + " delivered")

	// A receiver of webhooks is told the same, and believes nobody else.
	hook := example(t, "node-business", env, "dist/webhook.js")
	receiver := strings.Fields(hook.await("listening on "))[2]
	resp, err := http.Post(receiver, "application/json", strings.NewReader(`{"type":"message.read","data":{"id":"forged","status":"read","status_seq":9}}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a forged webhook is answered with %s", resp.Status)
	}
	id = send("amina", "told by webhook")
	device.await(id)
	hook.await(id + " delivered")
	hook.signal(syscall.SIGTERM)
	hook.end()
	if out := hook.log.String(); strings.Contains(out, "forged") || !strings.Contains(out, "refused: ") {
		t.Errorf("the receiver of webhooks says\n%s", out)
	}

	// A repeat is shown once. A device that is stopped finds a message and its repetition when it goes on.
	device.signal(syscall.SIGSTOP)
	id = send("amina", "once")
	a := s.api()
	s.await("a second attempt", func() bool {
		d, err := a.message(t.Context(), id)
		return err == nil && slices.ContainsFunc(d.Timeline, func(step transition) bool { return step.Attempt >= 2 })
	})
	device.signal(syscall.SIGCONT)
	device.await(id)
	last := send("amina", "and another")
	if line := device.next(); !strings.HasPrefix(line, last) {
		t.Errorf("the device shows %q", line)
	}
	follow.await(id + " delivered")

	// All go on over a restart of the server. The follower is stopped until the message is delivered, so
	// that it learns of that only by going on where it was.
	follow.signal(syscall.SIGSTOP)
	s.stop()
	s = launch(t, dir, options...)
	if err := s.ready(); err != nil {
		t.Fatal(err)
	}
	id = send("amina", "after it")
	device.await("connected")
	device.await(id)
	a = s.api()
	s.awaitStatus(a, id, "delivered")
	follow.signal(syscall.SIGCONT)
	follow.await(id + " delivered")
	id = send("layla", "after it, too")
	shows(id, "after it, too")
	follow.await(id + " delivered")

	// A follower that is started again knows where the last one was.
	follow.kill()
	id = send("amina", "meanwhile")
	s.awaitStatus(a, id, "delivered")
	example(t, "node-business", env, "dist/follow.js").await(id + " delivered")

	device.signal(syscall.SIGTERM)
	device.end()
	if err := page.in.Close(); err != nil {
		t.Error(err)
	}
	page.end()
	s.stop()
}

// chromium returns the browser's path.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatal("there is no chromium: run make setup")
	return ""
}

// script is a running program in JavaScript.
type script struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string // of its standard output; closed at its end
	err   error       // how it ended; to be read after that
	log   transcript  // everything it said
}

// example starts a script of an example. It is ended with the test.
func example(t *testing.T, folder string, env []string, args ...string) *script {
	t.Helper()
	p := &script{t: t, name: filepath.Join(folder, args[0]), cmd: exec.Command("node", args...), lines: make(chan string, 1000)}
	p.cmd.Dir = filepath.Join(examples, folder)
	p.cmd.Env = append(os.Environ(), env...)
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = &p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			_, _ = p.log.Write(append(lines.Bytes(), '\n')) // it cannot fail
			p.lines <- lines.Text()
		}
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(p.kill)
	return p
}

// kill ends the script at once. Killing one that has ended does nothing.
func (p *script) kill() {
	_ = p.cmd.Process.Kill() // an error says that it has ended
	for range p.lines {      // makes room for what it still had to say
	}
}

// next returns the script's next line.
func (p *script) next() string {
	p.t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	select {
	case line, ok := <-p.lines:
		if ok {
			return line
		}
	case <-deadline.C:
	}
	p.t.Fatalf("%s has nothing more to say:\n%s", p.name, p.log.String())
	return ""
}

// await returns the next line that holds text.
func (p *script) await(text string) string {
	p.t.Helper()
	for {
		if line := p.next(); strings.Contains(line, text) {
			return line
		}
	}
}

func (p *script) signal(sig os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

// end waits for the script to end by itself, with status 0.
func (p *script) end() {
	p.t.Helper()
	for {
		select {
		case _, ok := <-p.lines:
			if ok {
				continue
			}
			if p.err != nil {
				p.t.Errorf("%s ended with %v:\n%s", p.name, p.err, p.log.String())
			}
		case <-time.After(30 * time.Second):
			p.t.Errorf("%s does not end", p.name)
		}
		return
	}
}
