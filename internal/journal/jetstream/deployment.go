package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/esh3artech/esh3ar/internal/journal"
)

// deploymentKey is under which a stream's metadata says which deployment it belongs to. Streams of older versions do not.
const deploymentKey = "esh3ar-deployment"

// ForeignError says that the streams belong to one deployment and the store to another: the positions of the one mean nothing in
// the other.
type ForeignError struct {
	Streams, Store string // the deployments' identifiers
}

// Error names both.
func (e *ForeignError) Error() string {
	return fmt.Sprintf("the streams are those of deployment %s, the store that of deployment %s", e.Streams, e.Store)
}

func isForeign(err error) bool {
	_, ok := errors.AsType[*ForeignError](err)
	return ok
}

// metadata is what the streams say of themselves.
func (l *Log) metadata() map[string]string {
	m := map[string]string{shardsKey: strconv.Itoa(l.opts.Shards)}
	if l.deployment != "" {
		m[deploymentKey] = l.deployment
	}
	return m
}

// own returns a *ForeignError if a stream's metadata names another deployment than this.
func (l *Log) own(metadata map[string]string) error {
	if id := metadata[deploymentKey]; id != "" && l.deployment != "" && id != l.deployment {
		return &ForeignError{Streams: id, Store: l.deployment}
	}
	return nil
}

// identify finds out which deployment the streams belong to, and asks the store whether it agrees.
func (l *Log) identify(ctx context.Context) error {
	if l.opts.Identify == nil {
		return nil
	}
	l.deployment = ""
	for shard := range l.opts.Shards {
		id, err := l.awaitIdentifier(ctx, shard)
		if err != nil {
			return fmt.Errorf("%w: stream %s: %w", journal.ErrUnavailable, streamName(shard), err)
		}
		if l.deployment == "" {
			l.deployment = id
		}
	}
	id, err := l.opts.Identify(ctx, l.deployment)
	if err != nil || id == "" {
		return err
	}
	if l.deployment != "" && id != l.deployment {
		return &ForeignError{Streams: l.deployment, Store: id}
	}
	l.deployment = id
	return nil
}

// awaitIdentifier returns the identifier in the metadata of a shard's stream, "" if it has none or does not exist, as soon as its
// servers answer.
func (l *Log) awaitIdentifier(ctx context.Context, shard int) (string, error) {
	for {
		s, err := l.find(ctx, shard)
		switch {
		case err == nil:
			return s.CachedInfo().Config.Metadata[deploymentKey], nil
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return "", nil
		case l.opts.Replicas == 1 || !passes(err):
			return "", err
		}
		if wait := pause(ctx, openPause); wait != nil {
			return "", errors.Join(err, wait)
		}
	}
}

// Deployment returns the identifier of the deployment that the streams belong to, "" while they have none.
func (l *Log) Deployment() string { return l.deployment }

// markTimeout bounds how long a stream may take to be marked.
const markTimeout = 5 * time.Second

// Mark says which deployment the store belongs to, if Identify could not when the log was opened. Streams without an identifier get
// it. To repeat it is harmless. It must not be called by several goroutines at a time.
//
// Errors: a *ForeignError if the streams belong to another, and ErrUnavailable.
func (l *Log) Mark(ctx context.Context, id string) error {
	if l.deployment != "" && l.deployment != id {
		return &ForeignError{Streams: l.deployment, Store: id}
	}
	l.deployment = id
	for shard := range l.streams {
		if err := l.mark(ctx, shard); err != nil {
			if isForeign(err) {
				return err
			}
			return l.requestError(ctx, "mark stream "+streamName(shard), err)
		}
	}
	return nil
}

func (l *Log) mark(ctx context.Context, shard int) error {
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	s, err := l.find(ctx, shard)
	if err != nil {
		return err
	}
	have := s.CachedInfo().Config
	if err := l.own(have.Metadata); err != nil || have.Metadata[deploymentKey] != "" {
		return err
	}
	_, err = l.js.UpdateStream(ctx, l.streamConfig(shard, have.FirstSeq))
	return err
}
