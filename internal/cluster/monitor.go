package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// ErrNotSynced means that a NATS server acknowledges what is not on its disk yet: a power cut would lose it.
var ErrNotSynced = errors.New("it does not sync each write, which its sync_interval: always would make it do")

// maxMonitored bounds what is read of a server's answer, in bytes.
const maxMonitored = 1 << 20

// CheckSync asks a NATS server's HTTP monitoring, at a base URL such as http://nats-1:8222, whether it syncs each
// write to a stream before it acknowledges it. Nothing that a client of NATS can ask tells that. Errors: ErrNotSynced,
// or what kept the server from being asked.
func CheckSync(ctx context.Context, monitor string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cluster: NATS server monitored at %s: %w", monitor, err)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(monitor, "/")+"/jsz", nil)
	if err != nil {
		return err
	}
	web := &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}}
	defer web.CloseIdleConnections() // ends a connection in the making, too, that nobody waits for any more
	response, err := web.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("it answered %s", response.Status)
	}
	var told struct {
		Disabled bool `json:"disabled"`
		Config   struct {
			SyncAlways bool `json:"sync_always"`
		} `json:"config"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxMonitored)).Decode(&told); err != nil {
		return fmt.Errorf("its answer: %w", err)
	}
	switch {
	case told.Disabled:
		return errors.New("it runs without JetStream")
	case !told.Config.SyncAlways:
		return ErrNotSynced
	}
	return nil
}
