package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A day is the number of a UTC day since 1970: one partition of the table message.
type day int64

const dayMicros = int64(24 * time.Hour / time.Microsecond)

func dayOf(micros int64) day { return day(micros / dayMicros) }

// bounds returns the first microsecond of the day and of the next.
func (d day) bounds() (from, to int64) { return int64(d) * dayMicros, int64(d+1) * dayMicros }

const partitionPrefix, partitionDate = "message_", "20060102"

// partition returns the name of the day's table.
func (d day) partition() string {
	from, _ := d.bounds()
	return partitionPrefix + time.UnixMicro(from).UTC().Format(partitionDate)
}

// parsePartition is the inverse of partition.
func parsePartition(table string) (day, error) {
	t, err := time.Parse(partitionPrefix+partitionDate, table)
	if err != nil {
		return 0, fmt.Errorf("store: table %q is no partition of a day: %w", table, err)
	}
	return dayOf(t.UnixMicro()), nil
}

// days knows which partitions there are, and makes those that are needed.
type days struct {
	pool *pgxpool.Pool

	mu    sync.Mutex
	known map[day]bool
}

func newDays(pool *pgxpool.Pool) *days { return &days{pool: pool, known: make(map[day]bool)} }

// ensure makes the day's partition unless it is known to be there.
func (d *days) ensure(ctx context.Context, which day) error {
	d.mu.Lock()
	known := d.known[which]
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
		table := pgx.Identifier{which.partition()}.Sanitize()
		var attached bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM pg_inherits
			WHERE inhparent = 'message'::regclass AND inhrelid = to_regclass($1))`, table).Scan(&attached); err != nil || attached {
			return err
		}
		from, to := which.bounds()
		// A table that an interrupted Prune left detached is taken back.
		if _, err := tx.Exec(ctx, `CREATE TABLE IF NOT EXISTS `+table+` (LIKE message INCLUDING ALL)`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, fmt.Sprintf(`ALTER TABLE message ATTACH PARTITION %s FOR VALUES FROM (%d) TO (%d)`, table, from, to))
		return err
	})
	if err != nil {
		return fmt.Errorf("store: make partition %s: %w", which.partition(), err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known[which] = true
	return nil
}

// forget makes ensure look again, after a partition was dropped.
func (d *days) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.known)
}
