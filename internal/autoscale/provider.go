package autoscale

import "context"

// Provider starts and drains elastic nodes. Its methods are called by one goroutine at a time, of the process that leads.
type Provider interface {
	// Name is a word for it.
	Name() string

	// Inventory says what can be removed. It is asked before every decision, and looks after what is under way.
	Inventory(ctx context.Context) (Inventory, error)

	// Scale carries out an order, or nothing of it if it fails. It returns once the nodes have been told to start or to
	// drain, and does not wait until they have.
	Scale(ctx context.Context, o Order) error
}

// Inventory is what a provider can remove.
type Inventory struct {
	// Removable are the names of nodes that it can drain; nil means any.
	Removable []string
	// Chooses: it cannot be told which node goes.
	Chooses bool
}

// Order is a change of the number of elastic nodes.
type Order struct {
	// Wanted is how many there are to be after it, those among them that are still to come.
	Wanted int
	// Add is how many are to be added; if it is 0 one is to be removed.
	Add int
	// Node is the one to be drained, "" if the provider chooses.
	Node   string
	Reason string
}
