//go:build mutation_no_sync

package cluster

// syncAlways has writes acknowledged before they are synced to disk. This is wrong, and here to show
// that the chaos laboratory finds it.
const syncAlways = false
