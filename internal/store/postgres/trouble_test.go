package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/esh3artech/esh3ar/internal/freeport"
	"github.com/esh3artech/esh3ar/internal/store/postgres"
)

func TestTrouble(t *testing.T) {
	free, err := freeport.Take(t.Context(), "127.0.0.1", 1)
	if err != nil {
		t.Fatal(err)
	}
	connect := func(ctx context.Context, url string) error {
		_, err := pgconn.Connect(ctx, url)
		return err
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	server := func(code string) error { return fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: code}) }
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"nobody listens": {connect(t.Context(), "postgres://u:secret@"+free[0]+"/d?sslmode=disable"), "nothing listens"},
		"no such host":   {&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "db.internal", IsNotFound: true}}, "name"},
		"silence":        {context.DeadlineExceeded, "does not answer in time"},
		"given up":       {connect(over, "postgres://u:secret@"+free[0]+"/d?sslmode=disable"), "cannot be reached"},
		"password":       {server("28P01"), "password"},
		"database":       {server("3D000"), "no such database"},
		"connections":    {server("53300"), "no connection to spare"},
		"shutdown":       {server("57P01"), "starting or stopping"},
		"standby":        {server("25006"), "takes no writes"},
		"upgrade":        {server("55P03"), "upgrade"},
		"other":          {server("XX000"), "XX000"},
		"broken":         {errors.New("unexpected EOF"), "cannot be reached"},
	} {
		t.Run(name, func(t *testing.T) {
			got := postgres.Trouble(test.err)
			if !strings.Contains(got, test.want) {
				t.Errorf("%v is told as %q, want %q in it", test.err, got, test.want)
			}
			for _, private := range []string{"secret", "127.0.0.1", "db.internal"} {
				if strings.Contains(got, private) {
					t.Errorf("%q tells %s to anybody", got, private)
				}
			}
		})
	}
}
