package store

import "context"

// Deployment is what all nodes over one store have in common from the first start on.
type Deployment interface {
	// FixShards returns the deployment's number of shards: that of the first call over the store's whole life,
	// whoever made it. A node with another number must not work on the store, because it would look for
	// recipients where their messages are not. Calls may race; one of them is the first. Shards must be
	// positive. Errors are transient.
	FixShards(ctx context.Context, shards int) (int, error)
}
