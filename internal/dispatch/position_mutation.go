//go:build mutation_position_early

package dispatch

// stored lets the position move as soon as an entry is read, before its rows are stored. This is wrong,
// and here to show that the chaos laboratory finds it.
func (e *entry) stored() bool { return true }
