//go:build !mutation_one_copy

package node

// clusterReplicas is how many servers keep each stream of a cluster that is not told otherwise.
const clusterReplicas = 3
