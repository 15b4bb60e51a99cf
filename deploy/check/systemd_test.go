package check

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// unit returns the settings of a unit of systemd, the last value of each.
func unit(t *testing.T, name string) map[string]string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("../systemd", name))
	if err != nil {
		t.Fatal(err)
	}
	settings := make(map[string]string)
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSpace(line)
		if key, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			settings[key] = value
		}
	}
	return settings
}

// A stop has the time that it may take with the options that docs/cluster.md sets and the defaults of the others.
func TestUnitOfANode(t *testing.T) {
	u := unit(t, "esh3ar.service")
	option := func(page, pattern string) time.Duration {
		t.Helper()
		raw, err := os.ReadFile("../../docs/" + page)
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(pattern).FindSubmatch(raw)
		if m == nil {
			t.Fatalf("%s does not have %s", page, pattern)
		}
		d, err := time.ParseDuration(string(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	drain := option("operations.md", "(?m)^\\| `drain-timeout` \\|[^|]*\\| `(\\w+)` ")
	most := option("cluster.md", `(?m)^drain-delay: (\w+)$`) + drain + drain/2 + 2*time.Second
	stop, err := time.ParseDuration(u["TimeoutStopSec"] + "s")
	if err != nil {
		t.Fatal(err)
	}
	if stop <= most {
		t.Errorf("%s for a stop that may take %s", stop, most)
	}
	for key, want := range map[string]string{
		"ExecStart":                "/usr/local/bin/esh3ar serve --config /etc/esh3ar/esh3ar.yaml",
		"EnvironmentFile":          "/etc/esh3ar/node.env",
		"LimitNOFILE":              "262144",
		"Restart":                  "always",
		"RestartPreventExitStatus": "2",
	} {
		if u[key] != want {
			t.Errorf("%s is %q, want %q", key, u[key], want)
		}
	}
}

// A balancer too has the time that its stop may take, and the files for both sides of a connection.
func TestUnitOfABalancer(t *testing.T) {
	u := unit(t, "esh3ar-balance.service")
	if u["ExecStart"] != "/usr/local/bin/esh3ar balance" || u["TimeoutStopSec"] != "30" || u["LimitNOFILE"] != "262144" {
		t.Errorf("%q", u)
	}
}
