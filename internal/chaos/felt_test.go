//go:build unix

package chaos

import (
	"strings"
	"testing"
	"time"
)

// A wait belongs to the fault before it, and apart if the device had to connect anew meanwhile.
func TestFelt(t *testing.T) {
	t.Parallel()
	at := func(d time.Duration) int64 { return int64(time.Hour + d) }
	var f feelings
	f.waited(at(0), at(time.Minute), 0) // nothing was broken yet
	f.injected("terminate", at(10*time.Second), 10*time.Second)
	f.waited(at(11*time.Second), at(11500*time.Millisecond), at(9*time.Second))
	f.waited(at(11*time.Second), at(13*time.Second), at(12*time.Second))
	f.waited(at(11*time.Second), at(12*time.Second), at(12*time.Second))
	f.stalled(at(11*time.Second), at(11250*time.Millisecond))
	f.injected("stalled-devices", at(20*time.Second), 20*time.Second)
	f.stalled(at(21*time.Second), at(22*time.Second)) // by the servers alone
	f.waited(at(21*time.Second), at(24*time.Second), at(12*time.Second))
	want := []Felt{
		{Fault: "terminate", At: 10 * time.Second, Accept: time.Second, Wait: 500 * time.Millisecond, Reconnect: 2 * time.Second},
		{Fault: "stalled-devices", At: 20 * time.Second, Wait: 3 * time.Second},
	}
	for i, f := range f.all {
		if f != want[i] {
			t.Errorf("felt %+v, want %+v", f, want[i])
		}
	}
	if table := FeltTable(f.all); !strings.Contains(table, "0.50 s,    0.50 s      2.00 s,    2.00 s") {
		t.Errorf("the table does not tell waits apart:\n%s", table)
	}
}
