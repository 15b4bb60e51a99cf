package esh3ar

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of a recipient pattern.
const (
	MaxRecipients            = 1024 // bytes of a pattern
	MaxRecipientAlternatives = 32
)

// Recipients is a pattern of recipients that was read: a list of alternatives in which * stands for any
// characters, none among them. The zero value matches every recipient. It never changes, so that any
// number of goroutines may use it.
type Recipients struct {
	alternatives []glob
}

// glob is one alternative: literal text with a star between each two parts. A recipient without a star is
// one part.
type glob []string

// ParseRecipients reads a pattern; "" is the one that matches every recipient. What it must match are
// recipients as NormalizeRecipient leaves them. Its error is of KindInvalid.
func ParseRecipients(pattern string) (Recipients, error) {
	var r Recipients
	switch {
	case len(pattern) > MaxRecipients:
		return r, Errorf(KindInvalid, "recipients_too_long", "a recipient pattern has at most %d bytes", MaxRecipients)
	case !utf8.ValidString(pattern) || strings.ContainsFunc(pattern, unicode.IsControl):
		return r, Errorf(KindInvalid, "bad_recipients", "a recipient pattern is UTF-8 without control characters")
	}
	for one := range strings.FieldsSeq(pattern) {
		if digits := strings.TrimLeft(one, "0"); len(one)-len(digits) == 2 && digits != "" && strings.Trim(digits, "0123456789*") == "" {
			return Recipients{}, Errorf(KindInvalid, "bad_recipients",
				"%q never matches: telephone numbers are compared in the form that begins with +", one)
		}
		r.alternatives = append(r.alternatives, strings.Split(one, "*"))
	}
	if len(r.alternatives) > MaxRecipientAlternatives {
		return Recipients{}, Errorf(KindInvalid, "recipients_too_long", "a recipient pattern has at most %d alternatives", MaxRecipientAlternatives)
	}
	return r, nil
}

// Match reports whether a normalised recipient is among those of the pattern. It allocates nothing, and
// takes time in proportion to the lengths of both at most.
func (r Recipients) Match(recipient string) bool {
	for _, g := range r.alternatives {
		if g.match(recipient) {
			return true
		}
	}
	return len(r.alternatives) == 0
}

func (g glob) match(s string) bool {
	last := len(g) - 1
	if last == 0 {
		return s == g[0]
	}
	if !strings.HasPrefix(s, g[0]) {
		return false
	}
	s = s[len(g[0]):]
	// Each part between two stars where it comes first: a later place leaves less for those that follow.
	for _, part := range g[1:last] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return strings.HasSuffix(s, g[last])
}
