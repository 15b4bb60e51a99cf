package dispatch

import (
	"testing"
	"time"
)

func TestScaler(t *testing.T) {
	s := scaler{least: 2, most: 4}
	n := 2
	var lag time.Duration
	run := func(looks, waiting int) {
		for range looks {
			n += s.step(waiting, lag, n)
		}
	}
	run(crowdFor-1, 1000)
	run(1, 10) // a wave
	run(crowdFor-1, 1000)
	if n != 2 {
		t.Errorf("%d processors after two waves", n)
	}
	run(1, 1000)
	if n != 3 {
		t.Errorf("%d processors in a crowd", n)
	}
	run(1000, 1000)
	if n != 4 {
		t.Errorf("%d processors in a long crowd, at most 4", n)
	}
	run(calmFor-1, 0)
	run(1, crowd*4) // enough to do again
	run(calmFor-1, 0)
	if n != 4 {
		t.Errorf("%d processors, though there was something to do in between", n)
	}
	run(1, 0)
	if n != 3 {
		t.Errorf("%d processors after a calm", n)
	}
	run(10*calmFor, 0)
	if n != 2 {
		t.Errorf("%d processors after a long calm, at least 2", n)
	}

	run(10*crowdFor, 2*n)
	if n != 2 {
		t.Errorf("%d processors, though few waited", n)
	}
	lag = late + 1
	run(crowdFor, 2*n)
	if n != 3 {
		t.Errorf("%d processors, though the reading is behind", n)
	}
	run(10*crowdFor, n)
	if n != 3 {
		t.Errorf("%d processors, though none waited: something else holds the reading up", n)
	}
}
