package esh3ar

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Tier is the service level that a client has bought. A higher tier never waits behind a lower
// one's backlog. Lower numbers are served first.
type Tier uint8

// The tiers.
const (
	TierGold Tier = iota
	TierSilver
	TierBronze

	// Tiers is their number.
	Tiers = 3
)

var tierNames = [Tiers]string{"gold", "silver", "bronze"}

// ParseTier returns the tier of that name. Its error is of KindInvalid.
func ParseTier(name string) (Tier, error) {
	for t, n := range tierNames {
		if n == name {
			return Tier(t), nil
		}
	}
	return 0, Errorf(KindInvalid, "unknown_tier", "%q is not a tier; use gold, silver or bronze", name)
}

// String returns the tier's name.
func (t Tier) String() string {
	if t < Tiers {
		return tierNames[t]
	}
	return fmt.Sprintf("tier(%d)", uint8(t))
}

// Limits of a client. They are part of the API's contract.
const (
	MaxClientID   = 64        // bytes of an id
	MaxClientName = 64        // characters of a name
	MaxRate       = 1_000_000 // messages a second; also of a burst
	MaxDailyQuota = 1_000_000_000_000
	MaxKeyName    = 64  // characters of an API key's name
	MaxKeys       = 100 // API keys of a client that work at one time
)

// Client is a business client (tenant): who sends messages.
type Client struct {
	// ID names the client in messages, events and logs. It never changes and is never given to another.
	ID string
	// Name is what devices see as the sender ("from").
	Name string
	Tier Tier
	// Rate is how many messages a second the client may send in the long run, 0 for as many as it likes.
	// Burst is how many it may send at once when it was quiet; 0 with a Rate means one second's worth.
	Rate, Burst int
	// DailyQuota is how many messages the client may send in a day (UTC), 0 for as many as it likes.
	DailyQuota int64
	// Recipients is a pattern that the client's recipients must match, "" for any: a list of
	// alternatives, separated by spaces, in which * stands for any characters, as in "+962* shop-*".
	Recipients string
	// Scopes are what the client's keys may be used for.
	Scopes Scopes
	// Suspended says that none of the client's keys work for now. What it sent goes on.
	Suspended bool
	CreatedAt time.Time
	// Revision counts the changes of the client that were stored; 0 is a client that is not stored yet.
	Revision int64
}

// Check reports everything that is wrong with a client that is to be stored: nil, or Faults of KindInvalid
// whose pointers are those of the client's JSON form in the admin API.
func (c *Client) Check() error {
	var f Faults
	if !IsClientID(c.ID) {
		f.Add("/id", "bad_client_id", "an id has 1 to %d characters a-z, 0-9, '-', '_' and '.', and begins with a letter or a digit", MaxClientID)
	}
	f.checkName("/name", c.Name, MaxClientName)
	if c.Tier >= Tiers {
		f.Add("/tier", "unknown_tier", "the tier is gold, silver or bronze")
	}
	f.checkRange("/rate", int64(c.Rate), MaxRate)
	f.checkRange("/burst", int64(c.Burst), MaxRate)
	f.checkRange("/daily_quota", c.DailyQuota, MaxDailyQuota)
	if c.Burst > 0 && c.Rate == 0 {
		f.Add("/burst", "burst_without_rate", "a burst means nothing without a rate; give a rate, too, or leave out the burst")
	}
	if _, err := ParseRecipients(c.Recipients); err != nil {
		f.Join("/recipients", err)
	}
	if !AllScopes.Has(c.Scopes) {
		f.Add("/scopes", "unknown_scope", "the scopes are %s", AllScopes)
	}
	return f.Err()
}

// IsClientID reports whether s can be a client's id.
func IsClientID(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
		case i > 0 && (c == '-' || c == '_' || c == '.'):
		default:
			return false
		}
	}
	return 0 < len(s) && len(s) <= MaxClientID
}

// checkName adds a fault for a name that people could not read, or not on one line.
func (f *Faults) checkName(pointer, name string, most int) {
	switch {
	case name == "" || strings.TrimSpace(name) != name:
		f.Add(pointer, "bad_name", "a name is not empty and neither begins nor ends with white space")
	case !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		f.Add(pointer, "bad_name", "a name consists of printable characters and spaces")
	case utf8.RuneCountInString(name) > most:
		f.Add(pointer, "name_too_long", "a name has at most %d characters", most)
	}
}

// checkRange adds a fault for a number that is negative or above most.
func (f *Faults) checkRange(pointer string, n, most int64) {
	if n < 0 || n > most {
		f.Add(pointer, "out_of_range", "give a number between 0 and %d; 0 is no limit", most)
	}
}
