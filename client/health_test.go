package client_test

import (
	"fmt"
	"net/http"
	"reflect"
	"testing"

	"github.com/esh3artech/esh3ar/client"
)

func TestAdminHealth(t *testing.T) {
	a := operate(t, func(n int, w http.ResponseWriter, r *http.Request, body string) {
		want(t, r, body, "GET /v1/admin/health", "")
		if n == 1 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"status":"degraded","at":"2026-03-01T12:00:00Z","cluster":"production","shards":4,"shards_without_owner":[3],
			"problems":[{"check":"shards","status":"degraded","detail":"why","advice":"what"}],
			"nodes":[{"name":"node-1","address":"http://node-1:8080","incarnation":"1234","here":true,"core":true,"draining":false,"status":"ok",
				"shards":[0,1,2],"checks":{},"free":0.5,"in_flight":3,"limit":9,"figures":{"accepted_per_second":12.5,"devices":7,"store_breaker":"closed"}}]}`)
	})
	o, err := a.Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	node := client.Node{
		Name: "node-1", Address: "http://node-1:8080", Incarnation: "1234", Here: true, Core: true, Status: "ok", Shards: []int{0, 1, 2},
		Free: 0.5, InFlight: 3, Limit: 9, Figures: client.NodeFigures{Accepted: 12.5, Devices: 7, StoreBreaker: "closed"},
	}
	wanted := client.Overview{
		Status: "degraded", At: o.At, Cluster: "production", Shards: 4, Unowned: []int{3},
		Problems: []client.OverviewProblem{{Check: "shards", Status: "degraded", Detail: "why", Advice: "what"}}, Nodes: []client.Node{node},
	}
	if !reflect.DeepEqual(o, wanted) || o.At.Hour() != 12 {
		t.Errorf("%+v, want %+v", o, wanted)
	}
}
