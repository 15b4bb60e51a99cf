package record

import (
	"reflect"
	"testing"
	"time"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"pgregory.net/rapid"

	"github.com/esh3artech/esh3ar"
)

// specification compiles record.proto, so that the tests hold the hand-written codec against what the
// file says.
func specification(t *testing.T) protoreflect.FileDescriptor {
	t.Helper()
	c := protocompile.Compiler{Resolver: &protocompile.SourceResolver{}}
	files, err := c.Compile(t.Context(), "record.proto")
	if err != nil {
		t.Fatal(err)
	}
	return files[0]
}

// object is a message of the specification by field name.
type object map[string]any

// build makes the dynamic message of an object. Absent and zero fields are left unset.
func build(t *rapid.T, md protoreflect.MessageDescriptor, o object) *dynamicpb.Message {
	m := dynamicpb.NewMessage(md)
	for name, v := range o {
		fd := md.Fields().ByName(protoreflect.Name(name))
		if fd == nil {
			t.Fatalf("%s has no field %s", md.FullName(), name)
		}
		switch v := v.(type) {
		case map[string]string:
			for k, s := range v {
				m.Mutable(fd).Map().Set(protoreflect.ValueOf(k).MapKey(), protoreflect.ValueOf(s))
			}
		case []object:
			for _, e := range v {
				m.Mutable(fd).List().Append(protoreflect.ValueOf(build(t, fd.Message(), e)))
			}
		default:
			m.Set(fd, protoreflect.ValueOf(v))
		}
	}
	return m
}

// agree checks that the hand-written bytes mean o to the specification, and returns the
// specification's own bytes for o.
func agree(t *rapid.T, md protoreflect.MessageDescriptor, o object, written []byte) []byte {
	want := build(t, md, o)
	got := dynamicpb.NewMessage(md)
	if err := proto.Unmarshal(written, got); err != nil {
		t.Fatalf("the specification cannot read it: %v", err)
	}
	if len(got.GetUnknown()) > 0 {
		t.Fatalf("fields unknown to the specification: %x", got.GetUnknown())
	}
	if !proto.Equal(got, want) {
		t.Fatalf("the specification reads\n%v\nwant\n%v", got, want)
	}
	b, err := proto.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func micros(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixMicro())
}

func messageObject(m *esh3ar.Message) object {
	o := object{
		"id": m.ID[:], "client": m.Client, "from": m.From, "tier": uint32(m.Tier), "to": m.To, "type": m.Type,
		"accepted_at": micros(m.AcceptedAt), "send_at": micros(m.SendAt), "expires_at": micros(m.ExpiresAt),
		"key": m.Key, "trace_parent": m.TraceParent, "metadata": m.Metadata,
		"unchecked": m.Unchecked, "stripped": m.Stripped,
	}
	if m.Data != nil {
		o["data"] = m.Data
	} else {
		o["content"] = m.Content
	}
	if m.Key != "" {
		o["digest"] = m.Digest[:]
	}
	return o
}

func transitionObject(tr *esh3ar.Transition) object {
	return object{
		"seq": tr.Seq, "status": uint32(tr.Status), "at": micros(tr.At), "attempt": tr.Attempt, "reason": string(tr.Reason),
	}
}

func TestMessageIsTheSpecifications(t *testing.T) {
	md := specification(t).Messages().ByName("Message")
	rapid.Check(t, func(t *rapid.T) {
		m := messages().Draw(t, "message")
		b := agree(t, md, messageObject(m), AppendMessage(nil, m))
		var got esh3ar.Message
		if err := DecodeMessage(b, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(&got, m) {
			t.Fatalf("got  %+v\nwant %+v", got, *m)
		}
	})
}

func TestStateIsTheSpecifications(t *testing.T) {
	md := specification(t).Messages().ByName("State")
	rapid.Check(t, func(t *rapid.T) {
		s := states().Draw(t, "state")
		o := object{"attempts": s.Attempts, "generation": s.Generation, "not_before": micros(s.NotBefore)}
		var timeline []object
		for i := range s.Timeline {
			timeline = append(timeline, transitionObject(&s.Timeline[i]))
		}
		o["timeline"] = timeline
		got, err := DecodeState(agree(t, md, o, AppendState(nil, &s)))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, s) {
			t.Fatalf("got  %+v\nwant %+v", got, s)
		}
	})
}

func TestEventsAreTheSpecifications(t *testing.T) {
	md := specification(t).Messages().ByName("EventBlock")
	rapid.Check(t, func(t *rapid.T) {
		// Two events of one message, then one of another of the same client.
		a, b := ids().Draw(t, "a"), ids().Draw(t, "b")
		if a == b {
			return
		}
		tr := rapid.SliceOfN(transitions(), 3, 3).Draw(t, "transitions")
		var block EventBlock
		want := []esh3ar.Event{
			{Message: a, Client: "acme", To: "r1", Transition: tr[0]},
			{Message: a, Client: "acme", To: "r1", Transition: tr[1]},
			{Message: b, Client: "acme", To: "r2", Transition: tr[2]},
		}
		for i := range want {
			want[i].TraceParent = rapid.SampledFrom([]string{"", "00-01-02-00", "00-01-03-01"}).Draw(t, "trace parent")
		}
		want[1].Seq = want[0].Seq + 1
		want[2].Seq = want[1].Seq + 7
		var objects []object
		var last int64
		for i := range want {
			e := &want[i]
			e.At = time.UnixMicro(e.At.UnixMicro()).UTC() // the zero time is a time like others here
			block.Add(e)
			o := object{
				"status": uint32(e.Status), "at_delta": e.At.UnixMicro() - last, "attempt": e.Attempt, "reason": string(e.Reason),
			}
			last = e.At.UnixMicro()
			if before := i > 0 && want[i-1].TraceParent == e.TraceParent; !before && (i > 0 || e.TraceParent != "") {
				o["trace_parent"] = e.TraceParent
			}
			switch i {
			case 0:
				o["message"], o["client"], o["to"] = e.Message[:], e.Client, e.To
				if e.Seq != 1 {
					o["seq"] = e.Seq
				}
			case 2:
				o["message"], o["to"], o["seq"] = e.Message[:], e.To, e.Seq
			}
			objects = append(objects, o)
		}
		if want[0].Seq == 0 || want[1].Seq == 0 || want[2].Seq < want[1].Seq {
			return // counts over the end of their range are no one's status_seq
		}
		got, err := AppendEvents(nil, agree(t, md, object{"events": objects}, block.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
	})
}
