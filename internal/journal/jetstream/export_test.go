package jetstream

import (
	"github.com/esh3artech/esh3ar/internal/journal"
)

// BytesReceived returns how many bytes the log's connection has received.
func (l *Log) BytesReceived() uint64 { return l.nc.Stats().InBytes }

// ReadsFrom returns the name of the server that a reader's consumer is at.
func ReadsFrom(r journal.Reader) string {
	own := r.(*reader)
	own.mu.Lock()
	defer own.mu.Unlock()
	if own.feed == nil {
		return ""
	}
	return own.feed.server
}
