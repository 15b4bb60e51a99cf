package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/esh3artech/esh3ar/internal/journal/jetstream"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/breaker"
)

// identify tells the journal which deployment the store belongs to, given the one that the journal's streams say, if they say
// one. A new deployment gets its identifier here, the store before the streams: an unused store takes that of the streams, and
// streams without one that of the store. It returns "" while there is no store.
func (n *Node) identify(ctx context.Context, streams string) (id string, err error) {
	err = n.askOpen(ctx, func(ctx context.Context) error {
		id, err = ask(ctx, n.store, streams)
		return err
	})
	if errors.Is(err, breaker.ErrAbsent) {
		return "", nil
	}
	return id, err
}

// identifyLate compares a store with the journal, which was opened without it.
func (n *Node) identifyLate(ctx context.Context, s store.Store) error {
	id, err := ask(ctx, s, n.journal.Deployment())
	if err != nil {
		return err
	}
	return n.cfg.explain(n.journal.Mark(ctx, id))
}

// ask asks the store which deployment it belongs to, given what the streams say.
func ask(ctx context.Context, d store.Deployment, streams string) (string, error) {
	id := streams
	if id == "" {
		id = store.NewIdentifier()
	}
	id, err := d.Identify(ctx, id, streams != "")
	if err != nil {
		return "", fmt.Errorf("deployment of the store: %w", err)
	}
	return id, nil
}

// explain says, if err is that the journal and the store are of two deployments, where they are and what is to be done.
func (c *Config) explain(err error) error {
	foreign, ok := errors.AsType[*jetstream.ForeignError](err)
	if !ok {
		return err
	}
	return fmt.Errorf("the store %s and the journal %s do not belong together: %w. "+
		"Nothing was stored or delivered. Start with the store and the journal of one deployment; "+
		"if this store is to go on with this journal, stop all nodes and run first, with the same options: esh3ar migrate adopt %s",
		c.storePlace(), c.journalPlace(), err, foreign.Streams)
}

func (c *Config) storePlace() string {
	if path := c.sqlitePath(); path != "" {
		return path
	}
	return c.Store.String()
}

func (c *Config) journalPlace() string {
	switch {
	case len(c.NATSURL) > 0:
		return "on the servers in nats-url"
	case c.clustered():
		return "of the cluster " + c.ClusterName
	}
	return "in " + filepath.Join(c.Data, "journal")
}

// Adopt makes the configured store that of the deployment with this identifier, whose journal it goes on with. No node may run.
func Adopt(ctx context.Context, c Config, id string) (err error) {
	if err := store.CheckIdentifier(id); err != nil {
		return err
	}
	if path := c.sqlitePath(); path != "" {
		if _, err := os.Stat(path); err != nil { // it would be made
			return fmt.Errorf("store: %w", err)
		}
	}
	s, err := openStore(ctx, &c, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return s.Adopt(ctx, id)
}
