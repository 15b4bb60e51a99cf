//go:build unix

package autoscale

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestExecIsToldTheOrder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "order")
	e := Exec{Command: []string{"/bin/sh", "-c", `echo "$ESH3AR_SCALE_WANTED|$ESH3AR_SCALE_CHANGE|$ESH3AR_SCALE_NODE|$ESH3AR_SCALE_REASON" >>"$0"`, file}, Timeout: patience}
	if err := e.Check(); err != nil {
		t.Fatal(err)
	}
	for _, o := range []Order{{Wanted: 5, Add: 2, Reason: "cpu is short"}, {Wanted: 4, Node: "elastic-7", Reason: "it's quiet; \"really\""}} {
		if err := e.Scale(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	told, err := os.ReadFile(file)
	if want := "5|+2||cpu is short\n4|-1|elastic-7|it's quiet; \"really\"\n"; err != nil || string(told) != want {
		t.Errorf("told %q, %v; want %q", told, err, want)
	}
	if inv, err := e.Inventory(t.Context()); inv.Removable != nil || inv.Chooses || err != nil {
		t.Errorf("%+v, %v", inv, err)
	}
}

// A command may leave something running that holds its output.
func TestExecLeavesChildrenBehind(t *testing.T) {
	e := Exec{Command: []string{"/bin/sh", "-c", "sleep 5 & exit 0"}, Timeout: patience}
	if err := e.Scale(t.Context(), Order{Wanted: 1, Add: 1}); err != nil {
		t.Error(err)
	}
	e.Command = []string{"/bin/sh", "-c", "sleep 5 & exit 4"}
	if err := e.Scale(t.Context(), Order{Wanted: 1, Add: 1}); err == nil || !strings.Contains(err.Error(), "exit status 4") {
		t.Errorf("%v, want the exit status in it", err)
	}
}

func TestExecFailures(t *testing.T) {
	for name, test := range map[string]struct {
		command []string
		timeout time.Duration
		want    string
	}{
		"a status":           {[]string{"/bin/sh", "-c", "echo no machines left >&2; exit 3"}, patience, "exit status 3: no machines left"},
		"no such program":    {[]string{"/nowhere"}, patience, "no such file"},
		"too long":           {[]string{"/bin/sh", "-c", "echo begun; sleep 100; echo done"}, 100 * time.Millisecond, "longer than 100ms: begun"},
		"too long by others": {[]string{"/bin/sh", "-c", "sleep 100 & wait"}, 100 * time.Millisecond, "longer than 100ms"},
		"a long speech":      {[]string{"/bin/sh", "-c", "seq 100000; echo the end; exit 1"}, patience, "the end"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			err := Exec{Command: test.command, Timeout: test.timeout}.Scale(t.Context(), Order{Wanted: 1, Add: 1})
			if err == nil || !strings.Contains(err.Error(), test.want) || len(err.Error()) > 2*tailBytes {
				t.Errorf("%v, want %q in it", err, test.want)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (Exec{Command: []string{"/bin/true"}, Timeout: patience}).Scale(ctx, Order{Add: 1}); err == nil {
		t.Error("it is run though nobody waits for it")
	}
	if (Exec{Timeout: 1}).Check() == nil || (Exec{Command: []string{"/bin/true"}}).Check() == nil {
		t.Error("options that cannot work pass")
	}
}
