package notify

import (
	"strconv"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/signalr"
)

// Event is one status event as its client is told of it. It must not change.
type Event struct {
	esh3ar.Event
	// Cursor is the place right behind the event, "" inside the package while nobody needs it.
	Cursor string
}

// typePrefix begins the type of an event; the status follows.
const typePrefix = "message."

// AppendJSON appends the event as it is told everywhere (docs/events.md). It implements signalr.Appender.
func (e *Event) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"id":"`...)
	dst = append(dst, e.Cursor...)
	dst = append(dst, `","type":"`+typePrefix...)
	dst = append(dst, e.Status.String()...)
	dst = append(dst, `","time":"`...)
	dst = e.At.UTC().AppendFormat(dst, timeFormat)
	dst = append(dst, '"')
	if e.TraceParent != "" {
		dst = append(dst, `,"traceparent":`...)
		dst = signalr.AppendJSONString(dst, e.TraceParent)
	}
	dst = append(dst, `,"data":{"id":"`...)
	dst = e.Message.Append(dst)
	dst = append(dst, `","to":`...)
	dst = signalr.AppendJSONString(dst, e.To)
	dst = append(dst, `,"status":"`...)
	dst = append(dst, e.Status.String()...)
	dst = append(dst, `","status_seq":`...)
	dst = strconv.AppendUint(dst, uint64(e.Seq), 10)
	if e.Attempt > 0 {
		dst = append(dst, `,"attempt":`...)
		dst = strconv.AppendUint(dst, uint64(e.Attempt), 10)
	}
	if e.Reason != "" {
		dst = append(dst, `,"reason":`...)
		dst = signalr.AppendJSONString(dst, string(e.Reason))
	}
	return append(dst, `}}`...)
}

// AppendMsgpack implements signalr.Appender.
func (e *Event) AppendMsgpack(dst []byte) []byte {
	return signalr.RawJSON(e.AppendJSON(nil)).AppendMsgpack(dst)
}

// timeFormat is RFC 3339 with six digits of a second, as everywhere in the API.
const timeFormat = "2006-01-02T15:04:05.000000Z07:00"

// Filter selects events by their status. The zero Filter selects all. The first state of a message,
// accepted, is never told: the 202 has.
type Filter uint16

// Only returns the filter that selects events of these statuses, or of all if there are none.
func Only(statuses ...esh3ar.Status) Filter {
	var f Filter
	for _, s := range statuses {
		f |= 1 << s
	}
	return f
}

// selects reports whether the filter selects events of that status.
func (f Filter) selects(s esh3ar.Status) bool { return f == 0 || f&(1<<s) != 0 }

// add selects the statuses of a list separated by commas, each with that prefix.
func (f *Filter) add(list, prefix string) error {
	for word := range strings.SplitSeq(list, ",") {
		name, ok := strings.CutPrefix(strings.TrimSpace(word), prefix)
		s, err := esh3ar.ParseStatus(name)
		if !ok || err != nil || s == esh3ar.StatusAccepted {
			return esh3ar.Errorf(esh3ar.KindInvalid, "unknown_status",
				"%q is not what an event can tell; there are %s, separated by commas", clip(word), possible(prefix))
		}
		*f |= 1 << s
	}
	return nil
}

// possible lists what an event can tell.
func possible(prefix string) string {
	var names []string
	for s := esh3ar.StatusAccepted + 1; s.Valid(); s++ {
		names = append(names, prefix+s.String())
	}
	return strings.Join(names, ", ")
}

// clip shortens what a caller sent before it is shown to him again.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// retrySoon is how long callers are asked to wait when the store does not answer.
const retrySoon = time.Second

func unavailable(cause error) error {
	return esh3ar.Errorf(esh3ar.KindUnavailable, "store_unavailable",
		"events cannot be looked up at the moment; try again").After(retrySoon).Because(cause)
}
