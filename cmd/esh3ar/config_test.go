package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

var update = flag.Bool("update", false, "write the generated part of docs/operations.md")

// esh3arCommand runs the program in this process and returns what it printed and its exit status.
func esh3arCommand(t *testing.T, args ...string) (out, errs string, status int) {
	t.Helper()
	var o, e bytes.Buffer
	status = run(t.Context(), args, stdio{strings.NewReader(""), &o, &e})
	return o.String(), e.String(), status
}

func TestPrecedence(t *testing.T) {
	t.Chdir(t.TempDir())
	writeFile(t, "esh3ar.yaml", "window: 11\nshards: 3\nack-timeout: 3s\nallowed-origins:\n  - https://a.example\n  - https://b.example\n")
	t.Setenv("ESH3AR_SHARDS", "4")
	t.Setenv("ESH3AR_ACK_TIMEOUT", "4s")
	out, errs, status := esh3arCommand(t, "config", "--ack-timeout", "5s")
	if status != 0 || errs != "" {
		t.Fatalf("status %d, %s", status, errs)
	}
	for option, want := range map[string]string{
		"ack-timeout":     "5s --ack-timeout",
		"shards":          "4 ESH3AR_SHARDS",
		"window":          "11 esh3ar.yaml:1",
		"allowed-origins": "https://a.example,https://b.example esh3ar.yaml:4",
		"max-attempts":    "10 default",
		"log-level":       "info default",
		"store":           "- default",
	} {
		if got := optionLine(out, option); got != want {
			t.Errorf("%s is %q, want %q", option, got, want)
		}
	}
}

func TestNamedConfigFile(t *testing.T) {
	t.Chdir(t.TempDir())
	writeFile(t, "esh3ar.yaml", "window: 11\n")
	writeFile(t, "other.yaml", "shards: 7\n")
	for _, args := range [][]string{{"--config", "other.yaml"}, nil} {
		if args == nil {
			t.Setenv("ESH3AR_CONFIG", "other.yaml")
		}
		out, errs, status := esh3arCommand(t, append([]string{"config"}, args...)...)
		if status != 0 {
			t.Fatal(errs)
		}
		if got := optionLine(out, "shards"); got != "7 other.yaml:1" {
			t.Errorf("shards is %q", got)
		}
		if got := optionLine(out, "window"); got != "100 default" {
			t.Errorf("window is %q, but ./esh3ar.yaml is not to be read beside another file", got)
		}
	}
}

func TestSecretsAreMasked(t *testing.T) {
	t.Chdir(t.TempDir())
	writeFile(t, "esh3ar.yaml", "jwt-secret: hidden\nstore: postgres://u:hidden@db/esh3ar\n")
	t.Setenv("ESH3AR_BOOTSTRAP_KEY", "hidden")
	out, errs, status := esh3arCommand(t, "config")
	if status != 0 || strings.Contains(out+errs, "hidden") {
		t.Fatalf("status %d\n%s%s", status, out, errs)
	}
	for option, want := range map[string]string{
		"bootstrap-key": "******** ESH3AR_BOOTSTRAP_KEY",
		"jwt-secret":    "******** esh3ar.yaml:1",
		"store":         "postgres://u:xxxxx@db/esh3ar esh3ar.yaml:2",
	} {
		if got := optionLine(out, option); got != want {
			t.Errorf("%s is %q, want %q", option, got, want)
		}
	}
}

func TestWrongConfigurationIsRefused(t *testing.T) {
	tests := []struct {
		name string
		file string
		env  [2]string
		args []string
		want string
	}{
		{name: "unknown key", file: "window: 5\nwindows: 5\n", want: `esh3ar.yaml:2: there is no option "windows"`},
		{name: "key of another kind", file: "config: x.yaml\n", want: `esh3ar.yaml:1: there is no option "config"`},
		{name: "repeated key", file: "window: 5\nshards: 2\nwindow: 6\n", want: `esh3ar.yaml:3: "window" is already set on line 1`},
		{name: "nested value", file: "window:\n  a: 5\n", want: `esh3ar.yaml:2: "window" must have a plain value or a list of them`},
		{name: "not a mapping", file: "- window\n", want: `esh3ar.yaml:1: must map option names to values`},
		{name: "two documents", file: "window: 5\n---\nwindow: 6\n", want: `esh3ar.yaml: holds more than one YAML document`},
		{name: "not YAML", file: "window: [\n", want: `esh3ar.yaml: yaml:`},
		{name: "no such file", args: []string{"--config", "absent.yaml"}, want: `configuration file: open absent.yaml`},
		{name: "unreadable value in the file", file: "ack-timeout: 5\n", want: `--ack-timeout: expected duration but got "5": time: missing unit in duration "5" (from esh3ar.yaml:1)`},
		{name: "impossible value in the file", file: "window: 0\n", want: `window "0": must lie between 1 and 10000 (from esh3ar.yaml:1)`},
		{name: "unreadable value in the environment", env: [2]string{"ESH3AR_SHARDS", "two"}, want: `from envar ESH3AR_SHARDS="two"`},
		{name: "impossible value in the environment", env: [2]string{"ESH3AR_SHARDS", "0"}, want: `shards "0": must lie between 1 and 4096 (from ESH3AR_SHARDS)`},
		{name: "impossible value on the command line", args: []string{"--listen", "8080"}, want: `listen "8080": must be a host and a port, as in 127.0.0.1:8080 (from --listen)`},
		{name: "two at once", args: []string{"--window=0", "--shards=0"}, want: "shards \"0\": must lie between 1 and 4096 (from --shards)\nwindow \"0\""},
		{name: "unknown flag", args: []string{"--windows=1"}, want: `unknown flag --windows`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			if test.file != "" {
				writeFile(t, "esh3ar.yaml", test.file)
			}
			if test.env[0] != "" {
				t.Setenv(test.env[0], test.env[1])
			}
			_, errs, status := esh3arCommand(t, append([]string{"config"}, test.args...)...)
			if status != 2 || !strings.Contains(errs, test.want) {
				t.Errorf("status %d, %q; want status 2, %q", status, errs, test.want)
			}
		})
	}
}

func TestUnknownVariableIsNamed(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("ESH3AR_ACK_TIMEOUTS", "1s")
	_, errs, status := esh3arCommand(t, "config")
	if status != 0 || !strings.Contains(errs, "ESH3AR_ACK_TIMEOUTS is set, but no option has that name") {
		t.Errorf("status %d, %q", status, errs)
	}
}

// TestOperationsListsEveryOption keeps the table in docs/operations.md current. Write it with
//
//	go test ./cmd/esh3ar -run TestOperationsListsEveryOption -update
func TestOperationsListsEveryOption(t *testing.T) {
	parser, err := newParser(t.Context(), stdio{})
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- options: generated -->\n", "<!-- end of options -->\n"
	path := filepath.Join("..", "..", "docs", "operations.md")
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(page), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the options", path)
	}
	want := before + begin + optionTable(parser.Model.Node) + end + after
	if *update {
		writeFile(t, path, want)
	} else if string(page) != want {
		t.Errorf("%s is out of date; run this test with -update", path)
	}
}

// optionTable describes the server's options in Markdown.
func optionTable(app *kong.Node) string {
	i := slices.IndexFunc(app.Children, func(n *kong.Node) bool { return n.Name == "config" })
	var b strings.Builder
	group := ""
	for _, flag := range app.Children[i].Flags {
		if flag.Group == nil {
			continue
		}
		if flag.Group.Title != group {
			group = flag.Group.Title
			fmt.Fprintf(&b, "\n**%s**\n\n| option | variable | default | meaning |\n|---|---|---|---|\n", group)
		}
		value := "none"
		if flag.Default != "" {
			value = "`" + flag.Default + "`"
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s |\n", flag.Name, flag.Envs[0], value, flag.Help)
	}
	b.WriteString("\n")
	return b.String()
}

// optionLine returns what `esh3ar config` printed for an option, its columns joined by one space.
func optionLine(out, option string) string {
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(option) + ` +(\S+) +(.+)$`).FindStringSubmatch(out)
	if m == nil {
		return ""
	}
	return m[1] + " " + m[2]
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
