package storetest

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// entry is one of the audit log, made now.
func (w *world) entry(action, client, object string) store.AuditEntry {
	return store.AuditEntry{At: w.now, Actor: "admin", Address: "192.0.2.1", Action: action, Client: client, Object: object}
}

// audited returns the actions of the audit log, newest first.
func (w *world) audited() (actions []string) {
	w.Helper()
	entries, err := w.s.Audited(w.Context(), store.AuditQuery{Limit: store.MaxLimit})
	w.is("audit log", err, nil)
	for _, e := range entries {
		actions = append(actions, e.Action)
	}
	return actions
}

// putClient stores a client and returns it as it is then.
func (w *world) putClient(c esh3ar.Client) esh3ar.Client {
	w.Helper()
	revision, err := w.s.PutClient(w.Context(), c, w.entry("client.put", c.ID, c.ID))
	w.is("put client "+c.ID, err, nil)
	w.same("revision", revision, c.Revision+1)
	c.Revision = revision
	got, err := w.s.Client(w.Context(), c.ID)
	w.is("client "+c.ID, err, nil)
	w.same("client", got, c)
	return c
}

func (w *world) putKeys(keys ...esh3ar.APIKey) {
	w.Helper()
	w.is("put keys", w.s.PutKeys(w.Context(), keys, w.entry("key.put", keys[0].Client, keys[0].ID)), nil)
}

// key returns a fresh key of that client.
func (w *world) key(client string) esh3ar.APIKey {
	secret := esh3ar.NewKey()
	return esh3ar.APIKey{
		ID: esh3ar.KeyID(secret), Hash: esh3ar.HashKey(secret), Client: client, Hint: esh3ar.KeyHint(secret), CreatedAt: w.now,
	}
}

// keyIs fails the test unless the key is stored so.
func (w *world) keyIs(want esh3ar.APIKey) {
	w.Helper()
	got, client, err := w.s.ClientByKey(w.Context(), want.Hash)
	w.is("key", err, nil)
	w.same("key", got, want)
	w.same("client of the key", client.ID, want.Client)
}

func testClients(w *world) {
	_, err := w.s.Client(w.Context(), "c")
	w.is("unknown client", err, store.ErrNotFound)
	_, err = w.s.PutClient(w.Context(), esh3ar.Client{ID: "c", Revision: 1, CreatedAt: w.now}, w.entry("client.update", "c", "c"))
	w.is("change of an unknown client", err, store.ErrNotFound)
	w.is("deletion of an unknown client", w.s.DeleteClient(w.Context(), "c", w.entry("client.delete", "c", "c")), store.ErrNotFound)
	w.same("audit log", len(w.audited()), 0)

	full := esh3ar.Client{
		ID: "c", Name: "Größe ورد", Tier: esh3ar.TierBronze, Rate: esh3ar.MaxRate, Burst: 7, DailyQuota: esh3ar.MaxDailyQuota,
		Recipients: "+962* ورد*", Scopes: esh3ar.AllScopes, Suspended: true, CreatedAt: w.now,
	}
	c := w.putClient(full)
	w.putClient(esh3ar.Client{ID: "d", CreatedAt: w.now})
	_, err = w.s.PutClient(w.Context(), full, w.entry("client.create", "c", "c"))
	w.is("the same id again", err, store.ErrConflict)

	changed := c
	changed.Name, changed.Tier, changed.Suspended, changed.Recipients = "other", esh3ar.TierGold, false, ""
	changed.Rate, changed.Burst, changed.DailyQuota, changed.Scopes = 0, 0, 0, esh3ar.ScopeRead
	changed = w.putClient(changed)
	_, err = w.s.PutClient(w.Context(), c, w.entry("client.update", "c", "c"))
	w.is("a change over another one", err, store.ErrConflict)
	got, err := w.s.Client(w.Context(), "c")
	w.is("client", err, nil)
	w.same("client", got, changed)
	w.same("audit log", w.audited(), []string{"client.put", "client.put", "client.put"})
}

func testClientsRace(w *world) {
	c := w.putClient(esh3ar.Client{ID: "c", CreatedAt: w.now})
	const racers = 8
	var done [racers]error
	var group sync.WaitGroup
	for i := range racers {
		group.Go(func() {
			mine := c
			mine.Name = fmt.Sprint(i)
			_, done[i] = w.s.PutClient(w.Context(), mine, w.entry("client.update", "c", "c"))
		})
	}
	group.Wait()
	won := 0
	for i, err := range done {
		if err == nil {
			won++
			got, err := w.s.Client(w.Context(), "c")
			w.is("client", err, nil)
			w.same("name", got.Name, fmt.Sprint(i))
			continue
		}
		w.is("a change over another one", err, store.ErrConflict)
	}
	w.same("changes", won, 1)
	w.same("entries", len(w.audited()), 2)
}

func testListClients(w *world) {
	var want []string
	for _, id := range []string{"b", "a", "a-b", "a.b", "a_b", "0", "b2", "b10"} {
		w.putClient(esh3ar.Client{ID: id, CreatedAt: w.now})
		want = append(want, id)
	}
	slices.Sort(want)
	var got []string
	for after := ""; ; after = got[len(got)-1] {
		page, err := w.s.ListClients(w.Context(), after, 3)
		w.is("clients", err, nil)
		if len(page) == 0 {
			break
		}
		for _, c := range page {
			got = append(got, c.ID)
		}
	}
	w.same("clients", got, want)
}

func testDeleteClient(w *world) {
	remove := func() error { return w.s.DeleteClient(w.Context(), "c", w.entry("client.delete", "c", "c")) }
	c := w.putClient(esh3ar.Client{ID: "c", Name: "n", CreatedAt: w.now})
	w.putClient(esh3ar.Client{ID: "d", CreatedAt: w.now})
	revoked, expiring := w.key("c"), w.key("c")
	expiring.ExpiresAt = w.now.Add(time.Hour)
	w.putKeys(revoked, expiring)
	w.putKeys(w.key("d"))
	w.is("a client with keys", remove(), store.ErrConflict)
	revoked.RevokedAt = w.now
	w.putKeys(revoked)
	w.is("a client with a key that expires", remove(), store.ErrConflict)
	w.tick(time.Hour)
	w.is("a client without keys that work", remove(), nil)

	_, err := w.s.Client(w.Context(), "c")
	w.is("a deleted client", err, store.ErrNotFound)
	w.is("a deleted client again", remove(), store.ErrNotFound)
	_, _, err = w.s.ClientByKey(w.Context(), revoked.Hash)
	w.is("key of a deleted client", err, store.ErrNotFound)
	w.is("key for a deleted client", w.s.PutKeys(w.Context(), []esh3ar.APIKey{w.key("c")}, w.entry("key.create", "c", "")), store.ErrNotFound)
	_, err = w.s.PutClient(w.Context(), c, w.entry("client.update", "c", "c"))
	w.is("change of a deleted client", err, store.ErrNotFound)
	c.Revision = 0
	_, err = w.s.PutClient(w.Context(), c, w.entry("client.create", "c", "c"))
	w.is("the id of a deleted client", err, store.ErrConflict)
	left, err := w.s.ListClients(w.Context(), "", 10)
	w.is("clients", err, nil)
	w.same("clients", len(left), 1)
	w.same("last entry", w.audited()[0], "client.delete")
}

func testKeys(w *world) {
	_, _, err := w.s.ClientByKey(w.Context(), esh3ar.HashKey("esh_x"))
	w.is("unknown key", err, store.ErrNotFound)
	k := w.key("c")
	w.is("key of nobody", w.s.PutKeys(w.Context(), []esh3ar.APIKey{k}, w.entry("key.create", "c", k.ID)), store.ErrNotFound)
	w.putClient(esh3ar.Client{ID: "c", CreatedAt: w.now})
	w.putClient(esh3ar.Client{ID: "d", CreatedAt: w.now})
	none, err := w.s.Keys(w.Context(), "c", 10)
	w.is("keys", err, nil)
	w.same("keys", len(none), 0)

	k.Name, k.Scopes, k.ExpiresAt = "Kasse ورد", esh3ar.ScopeSend, w.now.Add(time.Hour)
	w.putKeys(k)
	w.keyIs(k)
	w.tick(time.Minute)
	newer := w.key("c")
	w.putKeys(newer, w.key("d"))
	list, err := w.s.Keys(w.Context(), "c", 10)
	w.is("keys", err, nil)
	w.same("keys", list, []esh3ar.APIKey{newer, k})
	list, err = w.s.Keys(w.Context(), "c", 1)
	w.is("keys", err, nil)
	w.same("newest key", list, []esh3ar.APIKey{newer})

	entries := len(w.audited())
	taken := w.key("c")
	taken.ID = k.ID
	w.is("an id that is taken", w.s.PutKeys(w.Context(), []esh3ar.APIKey{w.key("c"), taken}, w.entry("key.create", "c", k.ID)), store.ErrConflict)
	stolen := k
	stolen.Client = "d"
	w.is("another client's key", w.s.PutKeys(w.Context(), []esh3ar.APIKey{stolen}, w.entry("key.create", "d", k.ID)), store.ErrConflict)
	w.same("entries", len(w.audited()), entries)
	list, err = w.s.Keys(w.Context(), "c", 10)
	w.is("keys", err, nil)
	w.same("keys", len(list), 2)
}

// testKeysEnd: whatever changes race, the end of a key only comes nearer.
func testKeysEnd(w *world) {
	w.putClient(esh3ar.Client{ID: "c", CreatedAt: w.now})
	k := w.key("c")
	w.putKeys(k)
	stale := k

	k.ExpiresAt = w.now.Add(time.Hour)
	w.putKeys(k)
	w.keyIs(k)
	w.putKeys(stale)
	w.keyIs(k)
	later := k
	later.ExpiresAt = w.now.Add(2 * time.Hour)
	w.putKeys(later)
	w.keyIs(k)
	k.ExpiresAt = w.now.Add(time.Minute)
	w.putKeys(k)
	w.keyIs(k)

	k.RevokedAt = w.tick(time.Second)
	w.putKeys(k)
	w.keyIs(k)
	w.putKeys(stale)
	w.keyIs(k)
	again := k
	again.RevokedAt = w.tick(time.Second)
	w.putKeys(again)
	w.keyIs(k)
	renamed := k
	renamed.Name, renamed.Scopes, renamed.Hint = "other", esh3ar.ScopeRead, "other"
	w.putKeys(renamed)
	w.keyIs(k)
}

func testTouchKeys(w *world) {
	w.putClient(esh3ar.Client{ID: "c", CreatedAt: w.now})
	a, b := w.key("c"), w.key("c")
	w.putKeys(a, b)
	touch := func(used map[[32]byte]time.Time) {
		w.Helper()
		w.is("touch", w.s.TouchKeys(w.Context(), used), nil)
	}
	touch(nil)
	a.LastUsedAt = w.tick(time.Minute)
	touch(map[[32]byte]time.Time{a.Hash: w.now, esh3ar.HashKey("unknown"): w.now})
	w.keyIs(a)
	w.keyIs(b)
	touch(map[[32]byte]time.Time{a.Hash: w.now.Add(-time.Second)})
	w.keyIs(a)
	a.LastUsedAt, b.LastUsedAt = w.tick(time.Minute), w.now
	touch(map[[32]byte]time.Time{a.Hash: w.now, b.Hash: w.now})
	// A change of the key leaves its last use.
	w.putKeys(b)
	w.keyIs(a)
	w.keyIs(b)
}

func testAudit(w *world) {
	log := func(q store.AuditQuery) []store.AuditEntry {
		w.Helper()
		if q.Limit == 0 {
			q.Limit = store.MaxLimit
		}
		entries, err := w.s.Audited(w.Context(), q)
		w.is("audit log", err, nil)
		return entries
	}
	w.same("entries", len(log(store.AuditQuery{})), 0)
	var all []store.AuditEntry // newest first
	for i := range 20 {
		e := store.AuditEntry{
			At: w.tick(time.Second), Actor: []string{"admin", "c/k"}[i%2], Action: []string{"key.revoke", "client.update"}[i/2%2],
			Client: []string{"c", "d"}[i/4%2], Object: fmt.Sprint("ورد", i),
		}
		if i%3 == 0 {
			e.Address, e.Detail = "2001:db8::1", []byte(`{"name":{"old":"a","new":"ورد\u0000"}}`)
		}
		w.is("audit", w.s.Audit(w.Context(), e), nil)
		all = slices.Insert(all, 0, e)
	}
	got := log(store.AuditQuery{})
	w.same("entries", len(got), len(all))
	for i := range got {
		if i > 0 && got[i].Number >= got[i-1].Number {
			w.Fatalf("entry %d comes before entry %d", got[i-1].Number, got[i].Number)
		}
		all[i].Number = got[i].Number
	}
	w.same("entries", got, all)
	only := func(keep func(store.AuditEntry) bool) []store.AuditEntry {
		return slices.DeleteFunc(slices.Clone(all), func(e store.AuditEntry) bool { return !keep(e) })
	}
	w.same("of a client", log(store.AuditQuery{Client: "d"}), only(func(e store.AuditEntry) bool { return e.Client == "d" }))
	w.same("of an actor", log(store.AuditQuery{Actor: "c/k"}), only(func(e store.AuditEntry) bool { return e.Actor == "c/k" }))
	w.same("of a kind", log(store.AuditQuery{Action: "key.revoke", Client: "c"}), only(func(e store.AuditEntry) bool {
		return e.Action == "key.revoke" && e.Client == "c"
	}))
	w.same("of a time", log(store.AuditQuery{From: all[7].At, Until: all[3].At}), all[4:8])
	var pages []store.AuditEntry
	for q := (store.AuditQuery{Limit: 3}); ; q.Before = pages[len(pages)-1].Number {
		page := log(q)
		if len(page) == 0 {
			break
		}
		pages = append(pages, page...)
	}
	w.same("pages", pages, all)
	for _, limit := range []int{0, -1, store.MaxLimit + 1} {
		_, err := w.s.Audited(w.Context(), store.AuditQuery{Limit: limit})
		w.invalid(fmt.Sprintf("limit of %d", limit), err)
	}

	w.same("pruned", w.prune(store.Cutoffs{Audit: all[4].At}).Audit, int64(15))
	w.same("left", log(store.AuditQuery{}), all[:5])
	w.same("pruned", w.prune(store.Cutoffs{Audit: w.tick(time.Hour)}).Audit, int64(5))
	w.is("audit", w.s.Audit(w.Context(), all[0]), nil)
	if n := log(store.AuditQuery{})[0].Number; n <= all[0].Number {
		w.Errorf("after entry %d comes %d", all[0].Number, n)
	}
}

func testUsage(w *world) {
	add := func(day int64, add, want map[string]int64) {
		w.Helper()
		got, err := w.s.AddUsage(w.Context(), day, add)
		w.is("usage", err, nil)
		w.same("usage", got, want)
	}
	today := store.UsageDay(w.now)
	add(today, nil, map[string]int64{})
	add(today, map[string]int64{"a": 1, "b": 1 << 40}, map[string]int64{"a": 1, "b": 1 << 40})
	add(today, map[string]int64{"a": 4, "ورد": 0}, map[string]int64{"a": 5, "ورد": 0})
	add(today+1, map[string]int64{"a": 2}, map[string]int64{"a": 2})

	const adders, times = 8, 20
	var group sync.WaitGroup
	for range adders {
		group.Go(func() {
			for range times {
				if _, err := w.s.AddUsage(w.Context(), today, map[string]int64{"a": 1, "x": 1, "y": 2, "z": 3}); err != nil {
					w.Error(err)
				}
			}
		})
	}
	group.Wait()
	add(today, map[string]int64{"a": 0, "y": 0}, map[string]int64{"a": 5 + adders*times, "y": 2 * adders * times})

	midnight := w.now.Truncate(24 * time.Hour).Add(24 * time.Hour)
	w.same("pruned before the day's end", w.prune(store.Cutoffs{Usage: midnight.Add(-time.Microsecond)}).Usage, int64(0))
	w.same("pruned at the day's end", w.prune(store.Cutoffs{Usage: midnight}).Usage, int64(6))
	add(today, map[string]int64{"a": 0}, map[string]int64{"a": 0})
	add(today+1, map[string]int64{"a": 0}, map[string]int64{"a": 2})
}
