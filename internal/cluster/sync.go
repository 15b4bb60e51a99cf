//go:build !mutation_no_sync

package cluster

// syncAlways has every write synced to disk before it is acknowledged.
const syncAlways = true
