package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/node"
	"github.com/esh3artech/esh3ar/internal/store/postgres/pgtest"
)

// deploymentsIn returns the identifiers in an error that says whose the journal is and whose the store.
func deploymentsIn(t *testing.T, err error) (journal, store string) {
	t.Helper()
	if err == nil {
		t.Fatal("it starts with a journal and a store of two deployments")
	}
	m := regexp.MustCompile(`the streams are those of deployment ([0-9a-f]{32}), the store that of deployment ([0-9a-f]{32})`).FindStringSubmatch(err.Error())
	if m == nil {
		t.Fatalf("the error does not name two deployments: %v", err)
	}
	return m[1], m[2]
}

// over returns the configuration of a server over the directory and, if it is not "", the store.
func over(dir, store string) node.Config {
	cfg := node.DefaultConfig()
	cfg.Listen, cfg.Data, cfg.Store = "127.0.0.1:0", dir, node.StoreURL(store)
	return cfg
}

// create opens a server.
func create(t *testing.T, cfg node.Config) (*node.Node, error) {
	t.Helper()
	return node.New(t.Context(), cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
}

// with runs a server while do does something.
func with(t *testing.T, cfg node.Config, do func(node.Info)) {
	t.Helper()
	n, err := create(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	info, stop := serve(t, n)
	defer stop()
	do(info)
}

// post has a server accept a message for nobody who is there, and waits until it is stored.
func post(t *testing.T, cfg node.Config) (id string) {
	t.Helper()
	with(t, cfg, func(info node.Info) {
		id, _ = call(t, info, http.MethodPost, "/v1/messages", `{"to": "nobody", "content": "hello"}`, http.StatusAccepted)["id"].(string)
		queued(t, info, id)
	})
	return id
}

// queued waits until a message is known to wait.
func queued(t *testing.T, info node.Info, id string) {
	t.Helper()
	eventually(t, "message "+id+" is queued", func() bool {
		status, m := ask(t, info, "/v1/messages/"+id)
		return status == http.StatusOK && m["status"] == "queued"
	})
}

// ask gets a path and returns the answer, whatever it is.
func ask(t *testing.T, info node.Info, path string) (status int, body map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, info.URL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+info.DevKey)
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline, tick := time.After(time.Minute), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

func remove(t *testing.T, pattern string) {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: %v, %v", pattern, paths, err)
	}
	for _, path := range paths {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
}

// refused fails the test unless a server does not start because its journal and its store are of two deployments.
func refused(t *testing.T, cfg node.Config) (journal, store string) {
	t.Helper()
	n, err := create(t, cfg)
	if err == nil {
		err = n.Close()
	}
	return deploymentsIn(t, err)
}

// TestStoreOfAnotherDeployment: a server does not start with a store and a journal of two deployments, changes neither, and starts
// when it is told that this is meant; then all that is in the journal is in the store.
func TestStoreOfAnotherDeployment(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	first, second := post(t, over(one, "")), post(t, over(two, ""))
	mixed := over(one, "sqlite:"+filepath.Join(two, "esh3ar.db"))
	journal, store := refused(t, mixed)
	if again, _ := refused(t, over(two, "sqlite:"+filepath.Join(one, "esh3ar.db"))); again != store || journal == store {
		t.Errorf("the deployments are %s and %s, and the other way round that of the journal is %s", journal, store, again)
	}
	with(t, over(one, ""), func(info node.Info) { queued(t, info, first) })
	with(t, over(two, ""), func(info node.Info) {
		queued(t, info, second)
		// The server that was refused has not let its own client in.
		raw, err := os.ReadFile(filepath.Join(one, "dev-key"))
		if err != nil {
			t.Fatal(err)
		}
		info.DevKey = strings.TrimSpace(string(raw))
		if status, answer := ask(t, info, "/v1/messages"); status != http.StatusUnauthorized {
			t.Errorf("another deployment's key: %d, %v", status, answer)
		}
	})

	if err := node.Adopt(t.Context(), mixed, "its name"); err == nil {
		t.Error("anything is an identifier")
	}
	if err := node.Adopt(t.Context(), over(t.TempDir(), ""), journal); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a store that is not there: %v", err)
	}
	if err := node.Adopt(t.Context(), mixed, journal); err != nil {
		t.Fatal(err)
	}
	with(t, mixed, func(info node.Info) {
		queued(t, info, first)
		queued(t, info, second)
	})
}

// TestLostParts: a store that was lost takes the journal's deployment, and what is in the journal; a journal that was lost takes
// the store's. So a copy of the store belongs to the journal as before.
func TestLostParts(t *testing.T) {
	dir := t.TempDir()
	id := post(t, over(dir, ""))
	file := filepath.Join(dir, "esh3ar.db")
	copied, err := os.ReadFile(file) // the server has closed it
	if err != nil {
		t.Fatal(err)
	}
	there := func(what string) {
		t.Helper()
		t.Log(what)
		with(t, over(dir, ""), func(info node.Info) { queued(t, info, id) })
	}
	remove(t, file+"*")
	there("the store was lost")
	remove(t, filepath.Join(dir, "journal"))
	there("the journal was lost")
	remove(t, file+"*")
	if err := os.WriteFile(file, copied, 0o600); err != nil {
		t.Fatal(err)
	}
	there("the store was restored from a copy of before all that")
}

// TestLateStore: a server that started from its journal alone goes on with its deployment's store when that comes, and stops when
// it is another's.
func TestLateStore(t *testing.T) {
	pg, err := pgtest.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	}()
	own, other := over(t.TempDir(), pg.URL("postgres")), over(t.TempDir(), "")
	id := post(t, own)
	post(t, other)
	other.Store = own.Store
	late := func(cfg node.Config) (n *node.Node) {
		t.Helper()
		err := pg.Stop()
		if err == nil {
			n, err = create(t, cfg)
		}
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	n := late(own)
	info, stop := serve(t, n)
	if err := pg.Resume(); err != nil {
		t.Fatal(err)
	}
	queued(t, info, id)
	stop()

	n = late(other)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	if err := pg.Resume(); err != nil {
		t.Fatal(err)
	}
	err = <-done
	if journal, store := deploymentsIn(t, err); journal == store || !strings.Contains(err.Error(), "migrate adopt "+journal) {
		t.Errorf("error %v", err)
	}
}
