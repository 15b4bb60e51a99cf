package node

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/ingest"
	"github.com/esh3artech/esh3ar/internal/store"
)

// keysFile keeps the API keys that the store has confirmed, without their secrets, for a start while it is
// down.
const keysFile = "keys.json"

const (
	keysVersion = 1
	keysMost    = 10_000           // keys that are kept; others have to wait for the store
	keysEvery   = 2 * time.Second  // between two looks at what has changed
	keysCheck   = 10 * time.Minute // a key that is kept is asked for again after this time
	keysBatch   = 20               // keys asked for again at one look
	keysRenew   = time.Hour        // a file without changes is written again after this time
	keysWorth   = 24 * time.Hour   // an older file is not believed
)

// knownKeys finds clients by their keys in the store and remembers what it found, also over a restart: until
// the store has answered for the first time, those of the last run work as they did then. So a server that is
// started while its database is down can accept messages. A key that was ended is forgotten within
// keysCheck, whoever ended it. It is safe for concurrent use.
type knownKeys struct {
	source ingest.Keys
	path   string
	now    func() time.Time
	log    *slog.Logger

	mu       sync.Mutex
	keys     map[[32]byte]*knownKey
	answered bool // the store has, since the start
	changed  bool // since the file was written
	written  time.Time
}

type knownKey struct {
	key     esh3ar.APIKey
	client  esh3ar.Client
	checked time.Time
}

// keysSnapshot is the file. The key's hash stands beside it, in hexadecimal.
type keysSnapshot struct {
	Version int           `json:"version"`
	Written time.Time     `json:"written"`
	Keys    []keySnapshot `json:"keys"`
}

type keySnapshot struct {
	Hash   string        `json:"hash"`
	Key    esh3ar.APIKey `json:"key"`
	Client esh3ar.Client `json:"client"`
}

// newKnownKeys reads the file, if there is one. A file that cannot be read is told and left out of account:
// it costs nothing but the time until the store answers.
func newKnownKeys(source ingest.Keys, path string, now func() time.Time, log *slog.Logger) *knownKeys {
	k := &knownKeys{source: source, path: path, now: now, log: log, keys: make(map[[32]byte]*knownKey)}
	if err := k.load(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("the keys of the last run are not known", "err", err)
		clear(k.keys)
	}
	return k
}

func (k *knownKeys) load() error {
	raw, err := os.ReadFile(k.path)
	if err != nil {
		return err
	}
	var file keysSnapshot
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields() // a limit that is not understood must not be lost
	if err := d.Decode(&file); err != nil {
		return fmt.Errorf("%s: %w", k.path, err)
	}
	if file.Version != keysVersion {
		return fmt.Errorf("%s: version %d", k.path, file.Version)
	}
	if age := k.now().Sub(file.Written); age > keysWorth {
		return fmt.Errorf("%s: it is %s old", k.path, age.Round(time.Hour))
	}
	k.written = file.Written
	for _, one := range file.Keys {
		if n, err := hex.Decode(one.Key.Hash[:], []byte(one.Hash)); err != nil || n != len(one.Key.Hash) {
			return fmt.Errorf("%s: a hash is %q", k.path, one.Hash)
		}
		k.keys[one.Key.Hash] = &knownKey{key: one.Key, client: one.Client}
	}
	return nil
}

// ClientByKey implements ingest.Keys.
func (k *knownKeys) ClientByKey(ctx context.Context, hash [32]byte) (esh3ar.APIKey, esh3ar.Client, error) {
	key, client, err := k.source.ClientByKey(ctx, hash)
	k.mu.Lock()
	defer k.mu.Unlock()
	switch known := k.keys[hash]; {
	case err == nil || errors.Is(err, store.ErrNotFound):
		k.answered = true
		k.note(hash, key, client, err == nil)
	case !k.answered && known != nil:
		return known.key, known.client, nil
	}
	return key, client, err
}

// ask looks a key up anew. Its error says that the store did not answer.
func (k *knownKeys) ask(ctx context.Context, hash [32]byte) error {
	key, client, err := k.source.ClientByKey(ctx, hash)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.answered = true
	k.note(hash, key, client, err == nil)
	return nil
}

// TouchKeys implements ingest.Keys.
func (k *knownKeys) TouchKeys(ctx context.Context, used map[[32]byte]time.Time) error {
	return k.source.TouchKeys(ctx, used)
}

// note remembers what the store said. The caller holds mu.
func (k *knownKeys) note(hash [32]byte, key esh3ar.APIKey, client esh3ar.Client, found bool) {
	now, known := k.now(), k.keys[hash]
	if !found || !key.Works(now) {
		if known != nil {
			delete(k.keys, hash)
			k.changed = true
		}
		return
	}
	key.LastUsedAt = time.Time{} // changes all the time, and is not needed
	switch {
	case known == nil && len(k.keys) >= keysMost:
		return
	case known == nil || known.key != key || known.client != client:
		k.changed = true
	}
	k.keys[hash] = &knownKey{key: key, client: client, checked: now}
}

// usable reports whether anybody can be known before the store answers.
func (k *knownKeys) usable() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.keys) > 0
}

// run keeps what is known true and on disk, until ctx ends.
func (k *knownKeys) run(ctx context.Context) error {
	tick := time.NewTicker(keysEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		k.look(ctx)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	k.write() // what the last look did not see
	return ctx.Err()
}

// look asks again for some of the keys that were not asked for lately, and writes the file if need be.
func (k *knownKeys) look(ctx context.Context) {
	var ask [][32]byte
	k.mu.Lock()
	for hash, known := range k.keys {
		if len(ask) == keysBatch {
			break
		}
		if k.now().Sub(known.checked) >= keysCheck {
			ask = append(ask, hash)
		}
	}
	k.mu.Unlock()
	for _, hash := range ask {
		if err := k.ask(ctx, hash); err != nil {
			break // the store does not answer: another time
		}
	}
	k.write()
}

// write writes the file if it is out of date.
func (k *knownKeys) write() {
	k.mu.Lock()
	now := k.now()
	if !k.answered || !k.changed && now.Sub(k.written) < keysRenew {
		k.mu.Unlock()
		return
	}
	file := keysSnapshot{Version: keysVersion, Written: now}
	for hash, known := range k.keys {
		one := keySnapshot{Hash: hex.EncodeToString(hash[:]), Key: known.key, Client: known.client}
		one.Key.Hash = [32]byte{}
		file.Keys = append(file.Keys, one)
	}
	k.changed, k.written = false, now
	k.mu.Unlock()
	raw, err := json.Marshal(file)
	if err == nil {
		err = writeDurably(k.path, append(raw, '\n'), 0o600)
	}
	if err != nil {
		k.log.Warn("the known keys cannot be written; they are tried again", "err", err)
		k.mu.Lock()
		k.changed = true
		k.mu.Unlock()
	}
}
