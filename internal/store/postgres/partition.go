package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A day is the number of a UTC day since 1970: one partition of a table.
type day int64

const dayMicros = int64(24 * time.Hour / time.Microsecond)

func dayOf(micros int64) day { return day(micros / dayMicros) }

// bounds returns the first microsecond of the day and of the next.
func (d day) bounds() (from, to int64) { return int64(d) * dayMicros, int64(d+1) * dayMicros }

// partitioned is the name of a table that is partitioned by day.
type partitioned string

const (
	messages partitioned = "message"     // by the day on which they became final
	keys     partitioned = "idempotency" // by the day on which their messages were accepted
)

const partitionDate = "20060102"

// partition returns the name of the day's table.
func (p partitioned) partition(d day) string {
	from, _ := d.bounds()
	return string(p) + "_" + time.UnixMicro(from).UTC().Format(partitionDate)
}

// parse is the inverse of partition.
func (p partitioned) parse(table string) (day, error) {
	t, err := time.Parse(string(p)+"_"+partitionDate, table)
	if err != nil {
		return 0, fmt.Errorf("store: table %q is no partition of a day: %w", table, err)
	}
	return dayOf(t.UnixMicro()), nil
}

// days knows which partitions there are, and makes those that are needed.
type days struct {
	pool *pgxpool.Pool

	mu    sync.Mutex
	known map[string]bool // by the name of the partition
}

func newDays(pool *pgxpool.Pool) *days { return &days{pool: pool, known: make(map[string]bool)} }

// ensureAfter is ensure for days in a row, of which last was the latest.
func (d *days) ensureAfter(ctx context.Context, of partitioned, which day, last *day) error {
	if which == *last {
		return nil
	}
	*last = which
	return d.ensure(ctx, of, which)
}

// ensure makes the day's partition unless it is known to be there.
func (d *days) ensure(ctx context.Context, of partitioned, which day) error {
	name := of.partition(which)
	d.mu.Lock()
	known := d.known[name]
	d.mu.Unlock()
	if known {
		return nil
	}
	err := pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		// Those who would make it at the same time wait for each other here. Readers and writers of the
		// table wait for nobody: the lock for attaching does not conflict with theirs.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext('esh3ar.partition'))`); err != nil {
			return err
		}
		table := pgx.Identifier{name}.Sanitize()
		var attached bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM pg_inherits
			WHERE inhparent = to_regclass($2) AND inhrelid = to_regclass($1))`, table, string(of)).Scan(&attached); err != nil || attached {
			return err
		}
		from, to := which.bounds()
		// A table that an interrupted Prune left detached is taken back.
		if _, err := tx.Exec(ctx, fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %s (LIKE %s INCLUDING ALL)`, table, of)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, fmt.Sprintf(`ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%d) TO (%d)`, of, table, from, to))
		return err
	})
	if err != nil {
		return fmt.Errorf("make partition %s: %w", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known[name] = true
	return nil
}

// forget makes ensure look again, after a partition was dropped.
func (d *days) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.known)
}
