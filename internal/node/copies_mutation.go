//go:build mutation_one_copy

package node

// clusterReplicas has one server keep each stream: what it was given last is gone with its disk. This is wrong, and here
// to show that the chaos laboratory finds it.
const clusterReplicas = 1
