//go:build !mutation_position_early

package dispatch

// stored reports whether everything in the entry is stored by the transaction that is being formed or
// an earlier one, so that the position may move past it.
func (e *entry) stored() bool { return e.open == 0 }
