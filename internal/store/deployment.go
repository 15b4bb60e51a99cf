package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
)

// Deployment is what all nodes over one store have in common from the first start on.
type Deployment interface {
	// FixShards returns the deployment's number of shards: that of the first call over the store's whole life,
	// whoever made it. A node with another number must not work on the store, because it would look for
	// recipients where their messages are not. Calls may race; one of them is the first. Shards must be
	// positive. Errors are transient.
	FixShards(ctx context.Context, shards int) (int, error)

	// Identify returns the deployment's identifier: that of the first call over the store's whole life, whoever made it, or
	// the last that Adopt has set. The journal has it too, so that a node finds out when the two are not of one deployment. Known
	// says that a journal has this one: a store in which no shard was ever claimed takes it over any other, for it was not used
	// with a journal yet. Calls may race; one of them is the first. Errors are transient.
	Identify(ctx context.Context, id string, known bool) (string, error)

	// Adopt makes the store that of another deployment, whose journal it goes on with. What it knew of the former one's
	// journal, the shards' positions and who owns them, means nothing any more and is forgotten: everything in the new journal is read,
	// and what the store has of it is left out. Errors are transient.
	Adopt(ctx context.Context, id string) error
}

// NewIdentifier returns an identifier that no deployment has: 32 hexadecimal digits. It is part of the stored format, and
// migrations make such ones too.
func NewIdentifier() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// CheckIdentifier returns an error unless id is one that NewIdentifier might have returned.
func CheckIdentifier(id string) error {
	if raw, err := hex.DecodeString(id); err != nil || len(raw) != 16 || strings.ToLower(id) != id {
		return fmt.Errorf("%q is not a deployment's identifier, which is 32 digits and letters from a to f", id)
	}
	return nil
}
