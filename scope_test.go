package esh3ar

import (
	"slices"
	"testing"
)

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return list
}

func TestScopes(t *testing.T) {
	all := AllScopes.Names()
	if len(all) != len(scopeNames) {
		t.Errorf("%d scopes have %d names", len(all), len(scopeNames))
	}
	if got, err := ParseScopes(all...); err != nil || got != AllScopes {
		t.Errorf("%v, %v", got, err)
	}
	for i, name := range all {
		one, err := ParseScopes(name, name)
		if err != nil || one != 1<<i || !AllScopes.Has(one) || one.Has(AllScopes) || one.String() != name {
			t.Errorf("%s: %v, %v", name, one, err)
		}
	}
	if got, err := ParseScopes(); err != nil || got != 0 || got.String() != "" {
		t.Errorf("none: %v, %v", got, err)
	}
	for _, names := range [][]string{{"Send"}, {"send", ""}, {"scope(9)"}, {"send,read"}} {
		if got, err := ParseScopes(names...); KindOf(err) != KindInvalid || got != 0 {
			t.Errorf("%q: %v, %v", names, got, err)
		}
	}
	if DefaultScopes.Has(ScopeTokens) || !AllScopes.Has(DefaultScopes) {
		t.Errorf("default %v", DefaultScopes)
	}
	if got := (ScopeRead | 1<<9).String(); got != "read, scope(9)" {
		t.Errorf("an unknown scope is called %q", got)
	}
}
