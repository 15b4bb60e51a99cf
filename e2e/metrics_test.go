package e2e

import (
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"testing"
	"time"
)

// TestMetricsAreDocumented puts a little traffic on a server and checks that docs/operations.md explains
// each of its own metrics, and that the ones that operators rely on have moved.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	a := s.api()
	received := make(chan string, 1)
	d, err := dial(s.url, token(t, "alice", time.Hour), func(m delivery) { received <- m.ID })
	if err != nil {
		t.Fatal(err)
	}
	defer d.hangUp()
	id := a.mustSend(t, outgoing{To: "alice", Content: "hello", Key: "once"}).ID
	a.mustSend(t, outgoing{To: "alice", Content: "hello", Key: "once"})
	if err := d.acknowledge(<-received); err != nil {
		t.Fatal(err)
	}
	s.awaitStatus(a, id, "delivered")
	if _, err := a.send(t.Context(), outgoing{To: "alice"}); err == nil {
		t.Error("a message without content is accepted")
	}
	if _, err := dial(s.url, "nonsense", func(delivery) {}); err == nil {
		t.Error("a nonsense token is accepted")
	}

	resp, err := http.Get(s.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	exposed, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented, found []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(esh3ar_\\w+)` \\|").FindAllStringSubmatch(string(page), -1) {
		documented = append(documented, m[1])
	}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (esh3ar_\w+)`).FindAllStringSubmatch(string(exposed), -1) {
		found = append(found, m[1])
		if !slices.Contains(documented, m[1]) {
			t.Errorf("docs/operations.md does not explain %s", m[1])
		}
	}
	if len(found) < 15 {
		t.Errorf("only %q are exposed", found)
	}
	for _, line := range []string{
		`esh3ar_messages_accepted_total{tier="\w+"} 1`,
		`esh3ar_messages_repeated_total 1`,
		`esh3ar_requests_refused_total{code="\w+"} 1`,
		`esh3ar_accept_to_delivered_seconds_count{tier="gold"} 1`,
		`esh3ar_devices_connected 1`,
		`esh3ar_device_tokens_refused_total 1`,
		`esh3ar_message_transitions_total{.*status="delivered".*} 1`,
	} {
		if !regexp.MustCompile(`(?m)^` + line + `$`).Match(exposed) {
			t.Errorf("no line %s in:\n%s", line, regexp.MustCompile(`(?m)^esh3ar_.*$`).FindAllString(string(exposed), -1))
		}
	}
	s.stop()
}
