package esh3ar

import (
	"fmt"
	"math/bits"
	"strings"
)

// Scopes is a set of things that an API key may be used for. The bits are part of the stored format.
type Scopes uint32

// The scopes.
const (
	ScopeSend        Scopes = 1 << iota // send and cancel messages
	ScopeRead                           // read messages and their events, on every way
	ScopeDeadLetters                    // list, replay and discard dead letters
	ScopeWebhooks                       // manage webhook endpoints
	ScopeTokens                         // mint device tokens

	// AllScopes is every scope.
	AllScopes = ScopeSend | ScopeRead | ScopeDeadLetters | ScopeWebhooks | ScopeTokens
	// DefaultScopes are those of a client for which nothing else is said. Minting device tokens lets a
	// client read its recipients' messages, so it must be asked for.
	DefaultScopes = AllScopes &^ ScopeTokens
)

var scopeNames = [...]string{"send", "read", "dead-letters", "webhooks", "tokens"}

// ParseScopes returns the set of scopes with these names. Its error is of KindInvalid.
func ParseScopes(names ...string) (Scopes, error) {
	var s Scopes
next:
	for _, name := range names {
		for i, n := range scopeNames {
			if n == name {
				s |= 1 << i
				continue next
			}
		}
		return 0, Errorf(KindInvalid, "unknown_scope", "%q is not a scope; the scopes are %s", name, AllScopes)
	}
	return s, nil
}

// Has reports whether every scope of want is in s.
func (s Scopes) Has(want Scopes) bool { return s&want == want }

// Names returns the names of the scopes in s, in the order of their declaration.
func (s Scopes) Names() []string {
	names := make([]string, 0, bits.OnesCount32(uint32(s)))
	for i := range 32 {
		switch {
		case s&(1<<i) == 0:
		case i < len(scopeNames):
			names = append(names, scopeNames[i])
		default:
			names = append(names, fmt.Sprintf("scope(%d)", i))
		}
	}
	return names
}

// String returns the names, separated by commas.
func (s Scopes) String() string { return strings.Join(s.Names(), ", ") }
