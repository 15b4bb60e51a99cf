package postgres

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// Trouble says in a sentence's words why the server could not be asked, by the error of a call or of Open. It names
// neither hosts nor users, and is fit to be shown to anybody.
func Trouble(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return serverTrouble(e.Code)
	}
	var (
		lookUp *net.DNSError
		peer   *tls.CertificateVerificationError
		n      net.Error
	)
	switch {
	case errors.Is(err, errReadOnly):
		return "the database takes no writes"
	case errors.As(err, &lookUp):
		return "the name of the database's host cannot be looked up"
	case errors.As(err, &peer):
		return "the database's certificate is not trusted"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens at the database's address"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &n) && n.Timeout():
		return "the database does not answer in time"
	}
	return "the database cannot be reached"
}

// serverTrouble is Trouble by a code of the server.
func serverTrouble(code string) string {
	switch {
	case strings.HasPrefix(code, "28"):
		return "the database refuses this server's user or password"
	case code == "3D000":
		return "there is no such database"
	case code == "53300":
		return "the database has no connection to spare"
	case strings.HasPrefix(code, "57P"):
		return "the database is starting or stopping"
	case code == readOnlyTransaction:
		return "the database takes no writes"
	case code == "55P03":
		return "something holds a table that an upgrade of the database must change, as a pg_dump does"
	}
	return "the database answers with the error " + code
}
