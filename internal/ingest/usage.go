package ingest

import (
	"context"
	"log/slog"
	"time"
)

// Usage adds up over all nodes and restarts what clients use of their daily quotas. store.Usage says what
// holds.
type Usage interface {
	AddUsage(ctx context.Context, day int64, add map[string]int64) (map[string]int64, error)
}

// How usage is reported.
const (
	usageEvery   = time.Second
	usageTime    = 2 * time.Second  // of one report
	lastReport   = time.Second      // of all of a stop
	accountsKept = 10 * time.Minute // after the last use, at least
)

// reportUsage tells the store every second what was used since, and takes over the totals, in which the
// other nodes and earlier runs are counted. What the store does not take is told again later. When ctx ends it
// reports once more.
//
// A process that is killed forgets what was used since the last report: one second's worth, or as
// much as was used while the store was away.
func (a *API) reportUsage(ctx context.Context) {
	tick := time.NewTicker(usageEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastReport)
			a.reportOnce(last)
			cancel()
			return
		case <-a.accounts.fresh:
			// Without the total a client that used up its quota before a restart would go on for a second.
			a.reportOnce(ctx)
		case <-tick.C:
			a.reportOnce(ctx)
		}
	}
}

// report is what the store is told of an account.
type report struct {
	account *account
	add     int64
}

func (a *API) reportOnce(ctx context.Context) {
	since := time.Since(a.accounts.start)
	days := make(map[int64]map[string]report)
	a.accounts.byClient.Range(func(id, v any) bool {
		c := v.(*account)
		c.mu.Lock()
		defer c.mu.Unlock()
		day, add, fine := c.quota.Report()
		switch {
		case !fine && a.usage != nil:
			if days[day] == nil {
				days[day] = make(map[string]report)
			}
			days[day][id.(string)] = report{c, add}
		case fine && since-c.used > accountsKept && c.bucket.Full(since):
			c.closed = true
			a.accounts.byClient.Delete(id)
		}
		return true
	})
	for day, reports := range days {
		if err := a.reportDay(ctx, day, reports); err != nil {
			a.metrics.usageFailures.Inc()
			a.unreported.Do(func() {
				a.log.LogAttrs(ctx, slog.LevelWarn, "what clients used of their quotas was not stored; it will be tried again",
					slog.Int("clients", len(reports)), slog.Any("error", err))
			})
		}
	}
}

func (a *API) reportDay(ctx context.Context, day int64, reports map[string]report) error {
	add := make(map[string]int64, len(reports))
	for id, r := range reports {
		add[id] = r.add
	}
	ctx, cancel := context.WithTimeout(ctx, usageTime)
	defer cancel()
	totals, err := a.usage.AddUsage(ctx, day, add)
	if err != nil {
		return err
	}
	for id, r := range reports {
		r.account.mu.Lock()
		r.account.quota.Reported(day, r.add, totals[id])
		r.account.mu.Unlock()
	}
	return nil
}
