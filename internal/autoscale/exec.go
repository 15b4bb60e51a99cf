package autoscale

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Exec is a provider that runs a command of the operator's. The order is in its environment:
//
//	ESH3AR_SCALE_WANTED  how many elastic nodes there are to be, those that are still to come among them
//	ESH3AR_SCALE_CHANGE  the difference: +2, -1
//	ESH3AR_SCALE_NODE    the name of the node that had best be drained, empty when nodes are added
//	ESH3AR_SCALE_REASON  why, one line for people
//
// Exit status 0 says that the order is being carried out. Anything else is a failure, and the order, or the one that is then
// right, comes again later.
type Exec struct {
	Command []string      // program and arguments; required
	Timeout time.Duration // after which the command is killed; required
}

// execPatience is how long a command's output is waited for that it left to children of its own. They cannot write to it
// after that.
const execPatience = time.Second

// Check reports what cannot be.
func (e Exec) Check() error {
	if len(e.Command) == 0 || e.Command[0] == "" {
		return errors.New("autoscale: no command")
	}
	if e.Timeout <= 0 {
		return errors.New("autoscale: a command needs a time-out")
	}
	return nil
}

// Name implements Provider.
func (e Exec) Name() string { return "exec" }

// Inventory implements Provider: the command decides what it can remove.
func (e Exec) Inventory(context.Context) (Inventory, error) { return Inventory{}, nil }

// Scale implements Provider.
func (e Exec) Scale(ctx context.Context, o Order) error {
	ctx, cancel := context.WithTimeoutCause(ctx, e.Timeout, fmt.Errorf("it took longer than %s", e.Timeout))
	defer cancel()
	change := o.Add
	if change == 0 {
		change = -1
	}
	cmd := exec.CommandContext(ctx, e.Command[0], e.Command[1:]...)
	cmd.Env = append(os.Environ(),
		"ESH3AR_SCALE_WANTED="+strconv.Itoa(o.Wanted), fmt.Sprintf("ESH3AR_SCALE_CHANGE=%+d", change),
		"ESH3AR_SCALE_NODE="+o.Node, "ESH3AR_SCALE_REASON="+o.Reason)
	killGroup(cmd)
	cmd.WaitDelay = execPatience
	said := &tail{}
	cmd.Stdout, cmd.Stderr = said, said
	err := cmd.Run()
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return nil // the status was 0, and no child that has the output open makes it another
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("%s: %w%s", e.Command[0], err, said)
}

// tail keeps the last of what is written.
type tail struct{ text []byte }

const tailBytes = 1 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.text = append(t.text, b...)
	if over := len(t.text) - tailBytes; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(b), nil
}

// String is the text on one line, ready to follow an error.
func (t *tail) String() string {
	text := strings.Join(strings.Fields(string(bytes.ToValidUTF8(t.text, nil))), " ")
	if text == "" {
		return ""
	}
	return ": " + text
}
