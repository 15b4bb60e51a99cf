package ingest

import (
	"context"
	"maps"
	"time"
)

const (
	// useEvery is how often the source is told which keys were used, useAccuracy how exactly.
	useEvery    = time.Minute
	useAccuracy = 10 * time.Second
	// useBatch is how many keys it is told of at one time.
	useBatch = 1000
	// useTime bounds one telling. A stop waits for the last, and it is not worth much of one.
	useTime = time.Second
)

// use notes that the key was used at a time since the keyring's start. Most calls only read, so that the
// processors do not take the entry from each other for each request.
func (e *knownKey) use(now time.Duration) {
	if used := e.used.Load(); used == 0 || now-time.Duration(used) >= useAccuracy {
		e.used.Store(int64(max(now, 1)))
	}
}

// noteUses tells the source now and then which keys were used, until ctx ends, and then once more. What a
// source that fails was not told it is told later.
func (k *keyring) noteUses(ctx context.Context) {
	tick := time.NewTicker(useEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		k.noteUsesOnce(context.WithoutCancel(ctx))
	}
}

func (k *keyring) noteUsesOnce(ctx context.Context) {
	k.mu.RLock()
	known := maps.Clone(k.known)
	k.mu.RUnlock()
	now, since := k.now(), time.Since(k.start)
	used := make(map[[32]byte]time.Time)
	told := make(map[*knownKey]int64)
	flush := func() bool {
		ctx, cancel := context.WithTimeout(ctx, useTime)
		defer cancel()
		if k.source.TouchKeys(ctx, used) != nil {
			return false
		}
		for e, at := range told {
			e.noted.Store(at)
		}
		clear(used)
		clear(told)
		return true
	}
	for hash, e := range known {
		at := e.used.Load()
		if at == e.noted.Load() {
			continue
		}
		used[hash], told[e] = now.Add(time.Duration(at)-since), at
		if len(used) == useBatch && !flush() {
			return
		}
	}
	if len(used) > 0 {
		flush()
	}
}
