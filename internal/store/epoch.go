package store

import (
	"crypto/rand"
	"fmt"
)

// Epoch is one owner's time on a shard, from its claim to the next one. It tells the owner from every other, before and after.
type Epoch struct {
	// Number is one more than that of the claim before; the first is 1. It orders the owners of a shard.
	Number int64
	// Token is the claim's own. A store that was set back past a claim gives the claim's number to the next
	// owner again, and never its token.
	Token Token
}

// Token tells claims apart. It is random, and no secret.
type Token [16]byte

// NewToken returns a token that no claim has.
func NewToken() Token {
	var t Token
	rand.Read(t[:])
	return t
}

// Check reports why the owner whose epoch this is may not write to a shard whose stored epoch is another, which is zero if nobody ever
// claimed the shard. Errors: ErrNotOwner if somebody else has claimed it since, and both ErrNotOwner and ErrSetBack if the
// store has lost the owner's claim, whether or not somebody else has got its number.
func (e Epoch) Check(stored Epoch) error {
	switch {
	case e.Number < stored.Number:
		return fmt.Errorf("%w: its epoch is %d, and this one's %d", ErrNotOwner, stored.Number, e.Number)
	case e.Number > stored.Number:
		return fmt.Errorf("%w: %w: the claim of epoch %d; it is at %d", ErrNotOwner, ErrSetBack, e.Number, stored.Number)
	case e.Token != stored.Token:
		return fmt.Errorf("%w: %w: the claim of epoch %d, which another owner has claimed again", ErrNotOwner, ErrSetBack, e.Number)
	case e.Number == 0:
		return fmt.Errorf("%w: nobody has claimed it", ErrNotOwner)
	}
	return nil
}
