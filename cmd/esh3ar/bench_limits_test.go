package main

import (
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/loadgen"
)

func TestBenchBalanceFailsBelowItsLimits(t *testing.T) {
	result := loadgen.BalanceResult{
		Ratios:  []loadgen.BalanceComparison{{Connections: 100, OfHAProxy: 0.9}, {Connections: 1000, OfHAProxy: 0.6}},
		Latency: loadgen.BalanceLatency{Rate: 2000, Added: loadgen.Milliseconds(3 * time.Millisecond)},
	}
	for name, c := range map[string]struct {
		cmd benchBalanceCmd
		ok  bool
	}{
		"no limits":        {benchBalanceCmd{}, true},
		"kept":             {benchBalanceCmd{MinRatio: 0.6, MaxAdded: 3 * time.Millisecond}, true},
		"too few requests": {benchBalanceCmd{MinRatio: 0.61}, false},
		"too late":         {benchBalanceCmd{MaxAdded: 2 * time.Millisecond}, false},
	} {
		if err := c.cmd.judge(result); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
