package replay

import (
	"testing"

	"pgregory.net/rapid"
)

// TestNothingLostNothingTwice plays a sender and a receiver over a line that
// loses what is under way whenever it breaks.
func TestNothingLostNothingTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sender, receiver := NewSender(64), NewReceiver()
		var line [][]byte // under way
		var got []byte    // the first byte of each message that was accepted
		sent := 0
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0, 1, 2, 3:
				if !sender.Full() {
					m := []byte{byte(sent), 1, 2, 3}
					sent++
					sender.Add(m)
					line = append(line, m)
				}
			case 4, 5, 6, 7:
				if len(line) > 0 {
					if receiver.Accept(true) {
						got = append(got, line[0][0])
					}
					line = line[1:]
				}
			case 8:
				if id, ok := receiver.Ack(); ok {
					if err := sender.Ack(id); err != nil {
						t.Fatal(err)
					}
				}
			case 9:
				receiver.Reconnected()
				// Something may come before the sequence message: it is
				// ignored.
				if receiver.Accept(true) {
					t.Fatal("accepted before the sequence message")
				}
				if err := receiver.Sequence(sender.First()); err != nil {
					t.Fatal(err)
				}
				line = append([][]byte(nil), sender.Unacked()...)
			}
		}
		for _, m := range line {
			if receiver.Accept(true) {
				got = append(got, m[0])
			}
		}
		if len(got) != sent {
			t.Fatalf("%d of %d messages arrived", len(got), sent)
		}
		for i, b := range got {
			if b != byte(i) {
				t.Fatalf("message %d came where %d was due", b, byte(i))
			}
		}
	})
}

func TestRanges(t *testing.T) {
	s, r := NewSender(10), NewReceiver()
	if s.First() != 1 || s.Full() {
		t.Error("a new sender")
	}
	if err := s.Ack(0); err != nil {
		t.Errorf("an acknowledgement of nothing: %v", err)
	}
	if s.Ack(1) == nil {
		t.Error("an acknowledgement of what was not sent")
	}
	s.Add(make([]byte, 10))
	if !s.Full() {
		t.Error("not full")
	}
	if err := s.Ack(1); err != nil || s.Full() || s.First() != 2 {
		t.Errorf("after the acknowledgement: %v, %v, %d", err, s.Full(), s.First())
	}
	if err := s.Ack(1); err != nil {
		t.Errorf("an acknowledgement that is repeated: %v", err)
	}
	for _, id := range []int64{-1, 0, 2} {
		if r.Sequence(id) == nil {
			t.Errorf("sequence %d was accepted", id)
		}
	}
	if err := r.Sequence(1); err != nil {
		t.Error(err)
	}
	if !r.Accept(false) || !r.Accept(true) {
		t.Error("a message was not accepted")
	}
	if id, ok := r.Ack(); id != 1 || !ok {
		t.Errorf("acknowledgement %d, %v", id, ok)
	}
	if _, ok := r.Ack(); ok {
		t.Error("acknowledged twice")
	}
	// A repetition says that the acknowledgement was lost.
	r.Reconnected()
	if err := r.Sequence(1); err != nil || r.Accept(true) {
		t.Errorf("a repetition was accepted, %v", err)
	}
	if id, ok := r.Ack(); id != 1 || !ok {
		t.Errorf("acknowledgement after a repetition: %d, %v", id, ok)
	}
}
