package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Standby starts a hot standby of the running server. From then on the server's commits wait until the
// standby has synced them too. The caller must Close the standby.
func (s *Server) Standby() (*Server, error) {
	standby := &Server{bin: s.bin}
	var err error
	if standby.dir, err = os.MkdirTemp("", "esh3ar-pg-"); err != nil {
		return nil, err
	}
	if err := standby.follow(s); err != nil {
		return nil, errors.Join(err, os.RemoveAll(standby.dir))
	}
	if err := errors.Join(s.exec("ALTER SYSTEM SET synchronous_standby_names = '*'"), s.exec("SELECT pg_reload_conf()"), s.awaitStandby()); err != nil {
		return nil, errors.Join(err, standby.Close())
	}
	return standby, nil
}

// follow makes the cluster a copy of the primary's that goes on copying it, and starts its server.
func (s *Server) follow(primary *Server) error {
	if err := s.enter(); err != nil {
		return err
	}
	if err := s.backup(primary, s.data(), "--write-recovery-conf"); err != nil {
		return err
	}
	if err := s.configure(nil); err != nil {
		return err
	}
	return s.Resume()
}

// Leave has the standby lag: the server's commits do not wait for it any more, and it does not get them.
func (s *Server) Leave(standby *Server) error {
	if err := errors.Join(
		standby.exec("ALTER SYSTEM SET primary_conninfo = ''"), standby.exec("SELECT pg_reload_conf()"),
		s.exec("ALTER SYSTEM SET synchronous_standby_names = ''"), s.exec("SELECT pg_reload_conf()"),
	); err != nil {
		return err
	}
	return s.await("the standby goes on following", `SELECT NOT EXISTS (SELECT 1 FROM pg_stat_replication)`)
}

// awaitStandby waits until commits wait for the standby.
func (s *Server) awaitStandby() error {
	return s.await("the standby does not follow", `SELECT EXISTS (SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync')`)
}

// await waits until the answer to a query is true; while it is not, the complaint holds.
func (s *Server) await(complaint, query string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for so := false; !so && err == nil; {
		select {
		case <-tick.C:
			err = conn.QueryRow(ctx, query).Scan(&so)
		case <-ctx.Done():
			err = fmt.Errorf("pgtest: %s", complaint)
		}
	}
	return errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
}

// Promote makes a standby a primary, and returns when it takes writes.
func (s *Server) Promote() error { return s.exec("SELECT pg_promote()") }

// URLs returns a connection string of the database that is on every one of the servers.
func URLs(database string, servers ...*Server) string {
	hosts := make([]string, len(servers))
	for i, s := range servers {
		hosts[i] = fmt.Sprintf("127.0.0.1:%d", s.port)
	}
	return fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", superuser, strings.Join(hosts, ","), database)
}
