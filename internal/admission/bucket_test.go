package admission

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// In no time span does a bucket let more through than its rate allows: what went through between any two
// moments is at most rate*t and the burst, or the largest call if that is more.
func TestBucketBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.IntRange(1, 1_000_000).Draw(t, "rate")
		burst := rapid.IntRange(1, 2000).Draw(t, "burst")
		var b Bucket
		now := time.Duration(rapid.Int64Range(0, 1<<40).Draw(t, "start"))
		b.SetRate(rate, burst, now)
		type pass struct {
			at time.Duration
			n  int
		}
		var passed []pass
		for range rapid.IntRange(1, 60).Draw(t, "calls") {
			now += time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "pause"))
			n := rapid.IntRange(1, 1000).Draw(t, "n")
			allowed := time.Duration(rapid.Int64Range(0, int64(100*time.Millisecond)).Draw(t, "allowed"))
			wait, ok := b.Take(n, now, allowed)
			switch {
			case ok && wait > allowed:
				t.Fatalf("waits %s, allowed are %s", wait, allowed)
			case ok:
				passed = append(passed, pass{now + wait, n})
			case wait <= allowed:
				t.Fatalf("refused with a wait of %s, allowed are %s", wait, allowed)
			default:
				// What is said to pass later does, and not a nanosecond before.
				early, late := b, b
				if _, ok := early.Take(n, now+wait-1, 0); ok {
					t.Fatal("passes before it was said to")
				}
				if _, ok := late.Take(n, now+wait, 0); !ok {
					t.Fatal("does not pass when it was said to")
				}
			}
			if ok && rapid.IntRange(0, 9).Draw(t, "return") == 0 {
				b.Return(n)
				passed = passed[:len(passed)-1]
			}
		}
		for i := range passed {
			sum, largest := 0, burst
			for _, p := range passed[i:] {
				sum += p.n
				largest = max(largest, p.n)
				// The first one may have waited for less than a nanosecond.
				if most := int64(rate)*int64(p.at-passed[i].at+1) + int64(largest)*token; int64(sum)*token > most {
					t.Fatalf("%d go through in %s at %d/s with a burst of %d", sum, p.at-passed[i].at, rate, burst)
				}
			}
		}
	})
}

// Nobody who asks all the time gets less than the rate.
func TestBucketYieldsTheRate(t *testing.T) {
	var b Bucket
	b.SetRate(100, 10, 0)
	got := 0
	for now := time.Duration(0); now < 10*time.Second; now += time.Millisecond {
		if _, ok := b.Take(1, now, 50*time.Millisecond); ok {
			got++
		}
	}
	if got < 1010 || got > 1016 {
		t.Errorf("%d in ten seconds at 100/s, with a burst of 10", got)
	}
}

func TestBucketQueuesBriefWaits(t *testing.T) {
	var b Bucket
	b.SetRate(100, 0, 0)
	for i := range 100 {
		if wait, ok := b.Take(1, 0, 0); !ok || wait != 0 {
			t.Fatalf("call %d of the burst: %s, %v", i, wait, ok)
		}
	}
	for i := 1; i <= 5; i++ {
		if wait, ok := b.Take(1, 0, 50*time.Millisecond); !ok || wait != time.Duration(i)*10*time.Millisecond {
			t.Fatalf("call %d after the burst: %s, %v", i, wait, ok)
		}
	}
	if wait, ok := b.Take(1, 0, 50*time.Millisecond); ok || wait != 60*time.Millisecond {
		t.Errorf("%s, %v", wait, ok)
	}
	if left, next := b.Left(0); left != 0 || next != 60*time.Millisecond {
		t.Errorf("%d left, one more after %s", left, next)
	}
}

func TestBucketTakesALargeBatchWhenItIsFull(t *testing.T) {
	var b Bucket
	b.SetRate(10, 20, 0)
	if _, ok := b.Take(100, 0, 0); !ok {
		t.Fatal("a full bucket refuses a batch of 100")
	}
	if wait, ok := b.Take(1, 0, 0); ok || wait != 8100*time.Millisecond {
		t.Errorf("after it: %s, %v", wait, ok)
	}
	if wait, ok := b.Take(100, 9*time.Second, 0); ok || wait != time.Second {
		t.Errorf("the next batch: %s, %v", wait, ok)
	}
	if _, ok := b.Take(100, 10*time.Second, 0); !ok {
		t.Error("the next batch is not taken when the bucket is full")
	}
}

// A change of the rate takes effect at once, whatever happened under the old one.
func TestBucketChangesItsRate(t *testing.T) {
	for _, c := range []struct {
		name        string
		rate, burst int
		want        time.Duration // until one goes through
	}{
		{"higher", 1000, 1000, 101 * time.Millisecond},
		{"lower", 1, 1, 11 * time.Second},
		{"the same", 10, 10, 10100 * time.Millisecond},
	} {
		var b Bucket
		b.SetRate(10, 10, 0)
		b.Take(110, 0, 0) // owes 100, worked off in 10 s
		b.SetRate(c.rate, c.burst, 0)
		if wait, ok := b.Take(1, 0, 0); ok || wait > c.want {
			t.Errorf("%s: %s, %v, want at most %s", c.name, wait, ok, c.want)
		}
	}
	var b Bucket
	b.SetRate(10, 1000, 0)
	b.SetRate(10, 5, 0)
	if left, _ := b.Left(0); left != 5 {
		t.Errorf("%d left of a burst of 5", left)
	}
	if !b.Full(0) {
		t.Error("it is not full")
	}
}

func TestBucketTakesTimesInAnyOrder(t *testing.T) {
	var b Bucket
	b.SetRate(10, 1, 0)
	b.Take(1, time.Second, 0)
	if _, ok := b.Take(1, 0, 0); ok {
		t.Error("a call from before fills the bucket")
	}
	if _, ok := b.Take(1, 1099*time.Millisecond, 0); ok {
		t.Error("time counts twice")
	}
	if _, ok := b.Take(1, 1100*time.Millisecond, 0); !ok {
		t.Error("time does not count")
	}
}
