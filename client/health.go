package client

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// Overview is how a whole deployment is, as one of its nodes knows it.
type Overview struct {
	// Status is ok, degraded, or unavailable when no node can take requests.
	Status string    `json:"status"`
	At     time.Time `json:"at"`
	// Cluster is its name, "" for a server that is alone.
	Cluster string `json:"cluster"`
	// Shards is how many there are, Unowned those that no node owns at the moment: their messages wait.
	Shards   int               `json:"shards"`
	Unowned  []int             `json:"shards_without_owner"`
	Problems []OverviewProblem `json:"problems"` // the worst first
	Nodes    []Node            `json:"nodes"`    // by name
}

// OverviewProblem is a part of a deployment that is not as it should be.
type OverviewProblem struct {
	Node   string `json:"node"` // "" for what concerns the whole
	Check  string `json:"check"`
	Status string `json:"status"` // degraded or unavailable
	Detail string `json:"detail"` // the cause
	Advice string `json:"advice"` // what to do
}

// Node is one node of a deployment.
type Node struct {
	Name        string `json:"name"`
	Address     string `json:"address"`
	Incarnation string `json:"incarnation"` // grows with every start
	Here        bool   `json:"here"`        // it has answered
	Core        bool   `json:"core"`        // it keeps the journal of a cluster
	Draining    bool   `json:"draining"`    // it is about to stop
	Status      string `json:"status"`      // ok, degraded or unavailable
	Shards      []int  `json:"shards"`      // those that it owns

	// Free is the share of its capacity to accept that is free. InFlight is messages under way to the journal,
	// Limit how many there may be.
	Free     float64 `json:"free"`
	InFlight int64   `json:"in_flight"`
	Limit    int64   `json:"limit"`

	Figures  NodeFigures  `json:"figures"`
	Capacity NodeCapacity `json:"capacity"`
}

// NodeCapacity is what a node's figures are to be compared with.
type NodeCapacity struct {
	Processors    float64 `json:"processors"`             // that it may use at a time
	Connections   int64   `json:"connections"`            // that may be open
	AcceptSeconds float64 `json:"accept_latency_seconds"` // that making a message durable should take at most
}

// NodeFigures are what a node has to do and how it gets on, over the last two seconds. Times are means, 0 when there
// was nothing to take the time of.
type NodeFigures struct {
	Accepted        float64 `json:"accepted_per_second"`
	Refused         float64 `json:"refused_per_second"`
	Delivered       float64 `json:"delivered_per_second"`
	AcceptSeconds   float64 `json:"accept_seconds"`  // until a message is durable
	RouteSeconds    float64 `json:"route_seconds"`   // from then until it is handed to a connection
	DeliverSeconds  float64 `json:"deliver_seconds"` // until a device acknowledges it
	CommitSeconds   float64 `json:"commit_seconds"`  // of a transaction of the store
	Connections     int64   `json:"connections"`     // open, of any kind
	Devices         int64   `json:"devices"`
	EventStreams    int64   `json:"event_streams"`
	DispatchQueue   int64   `json:"dispatch_queue"`           // recipients that wait for a processor or have one
	Processors      int64   `json:"processors"`               // goroutines that run recipients
	Recipients      int64   `json:"recipients_in_memory"`     // with a connection or with messages in memory
	StoreQueue      int64   `json:"store_queue"`              // changes that wait for the store
	Unstored        int64   `json:"journal_unstored_entries"` // read, and not all of it stored
	LagSeconds      float64 `json:"lag_seconds"`              // how long ago what is being read of the journal was accepted; 0 if all is read
	StoreBreaker    string  `json:"store_breaker"`            // closed, trying or open
	WebhookBreakers int64   `json:"webhook_breakers_open"`
	CPU             float64 `json:"cpu"` // processors in use
	MemoryBytes     int64   `json:"memory_bytes"`
}

// Health returns how the whole deployment is.
func (a *Admin) Health(ctx context.Context) (Overview, error) {
	var o Overview
	if _, _, err := a.c.call(ctx, request{method: http.MethodGet, path: "/v1/admin/health", limit: maxPage}, &o); err != nil {
		return Overview{}, fmt.Errorf("client: reading the health: %w", err)
	}
	return o, nil
}
