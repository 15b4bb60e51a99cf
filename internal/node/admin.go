package node

import (
	"net/http"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/admin"
	"github.com/esh3artech/esh3ar/internal/ingest"
)

// adminRoutes returns the admin API, for holders of that key.
func (n *Node) adminRoutes(key string) []ingest.Route {
	api := admin.New(admin.Options{
		Store:     n.store,
		ForgetKey: func(hash [32]byte) { n.api.ForgetKey(hash) }, // the API that serves these routes
		Overview:  n.overview,
		Now:       n.clock.Now,
	})
	hash := esh3ar.HashKey(key)
	var routes []ingest.Route
	for _, r := range api.Routes() {
		routes = append(routes, ingest.Route{
			Pattern: r.Pattern, Methods: r.Methods, Key: &hash,
			Serve: func(w http.ResponseWriter, req *http.Request, _ ingest.Caller) error { return r.Serve(w, req) },
		})
	}
	return routes
}
