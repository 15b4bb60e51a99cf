package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"

	"modernc.org/sqlite"
)

// conn is the writer's connection. It is used below database/sql, whose bookkeeping for each
// statement costs more than the statement, by one goroutine at a time.
type conn struct {
	c     driver.Conn
	stmts []*stmt
	// writes counts the statements that may have changed something.
	writes int
}

// stmt is a prepared statement with room for its arguments.
type stmt struct {
	c    *conn
	s    driver.Stmt
	args []driver.NamedValue
}

func connect(ctx context.Context, path string, pragmas ...string) (*conn, error) {
	name, err := dsn(path, pragmas...)
	if err != nil {
		return nil, err
	}
	connector, err := sqlite.NewConnector(name)
	if err != nil {
		return nil, fmt.Errorf("store: open %s: %w", path, err)
	}
	c, err := connector.Connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("store: open %s: %w", path, err)
	}
	return &conn{c: c}, nil
}

func (c *conn) close() error {
	var err error
	for _, s := range c.stmts {
		err = errors.Join(err, s.s.Close())
	}
	return errors.Join(err, c.c.Close())
}

// begin starts a transaction that holds the right to write from the beginning.
func (c *conn) begin() (driver.Tx, error) {
	return c.c.(driver.ConnBeginTx).BeginTx(context.Background(), driver.TxOptions{})
}

func (c *conn) prepare(query string) (*stmt, error) {
	s, err := c.c.Prepare(query)
	if err != nil {
		return nil, fmt.Errorf("store: prepare %q: %w", query, err)
	}
	st := &stmt{c: c, s: s}
	c.stmts = append(c.stmts, st)
	return st, nil
}

// room returns the statement's own arguments, n of them, to be filled.
func (s *stmt) room(n int) []driver.NamedValue {
	for len(s.args) < n {
		s.args = append(s.args, driver.NamedValue{Ordinal: len(s.args) + 1})
	}
	return s.args[:n]
}

func (s *stmt) bind(args []driver.Value) []driver.NamedValue {
	room := s.room(len(args))
	for i, a := range args {
		room[i].Value = a
	}
	return room
}

// exec runs the statement and returns how many rows it changed.
func (s *stmt) exec(args ...driver.Value) (int64, error) {
	r, err := s.run(s.bind(args))
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// run is exec over arguments in the statement's room. It is not given the caller's context: a
// statement takes microseconds, and a watcher for each would cost more.
func (s *stmt) run(args []driver.NamedValue) (driver.Result, error) {
	s.c.writes++
	return s.s.(driver.StmtExecContext).ExecContext(context.Background(), args)
}

// row runs the statement and returns its only row, nil when there is none. Byte slices in it are
// the caller's.
func (s *stmt) row(args ...driver.Value) (row []driver.Value, err error) {
	rows, err := s.s.(driver.StmtQueryContext).QueryContext(context.Background(), s.bind(args))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	row = make([]driver.Value, len(rows.Columns()))
	if err := rows.Next(row); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		return nil, err
	}
	// To the end, so that the statement is complete: it may be a write with RETURNING.
	if err := rows.Next(make([]driver.Value, len(row))); !errors.Is(err, io.EOF) {
		return nil, errors.Join(errors.New("more than one row"), err)
	}
	return row, nil
}
