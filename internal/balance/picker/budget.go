package picker

// Budget bounds how many requests are sent again, so that nodes in trouble do not get more to do than they
// had before. It has one caller at a time.
type Budget struct {
	// Share is how many retries every request adds, Most how many can be saved up.
	Share, Most float64

	saved float64
}

// NewBudget returns a full Budget.
func NewBudget(share, most float64) *Budget {
	return &Budget{Share: share, Most: most, saved: most}
}

// Earn notes a request.
func (b *Budget) Earn() { b.saved = min(b.saved+b.Share, b.Most) }

// Spend reports whether one may be sent again, and takes it from the budget.
func (b *Budget) Spend() bool {
	if b.saved < 1 {
		return false
	}
	b.saved--
	return true
}
