package node

import (
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/fair"
)

// Secret is an option that must not show in logs, errors or listings. Convert it to a string to use it.
type Secret string

// String returns a mask, or "" for the empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "********"
}

// GoString masks the secret in %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// MarshalText masks the secret in encoders, those of log/slog among them.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// StoreURL says where the message store is. Its password does not show: convert it to a string to use it.
type StoreURL string

// String returns the URL without its password.
func (s StoreURL) String() string {
	u, err := url.Parse(string(s))
	if err != nil {
		return "********"
	}
	return u.Redacted()
}

// GoString masks the password in %#v.
func (s StoreURL) GoString() string { return strconv.Quote(s.String()) }

// MarshalText masks the password in encoders.
func (s StoreURL) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// fault says what is wrong with the URL, "" if nothing is.
func (s StoreURL) fault() string {
	if s == "" {
		return ""
	}
	u, err := url.Parse(string(s))
	switch {
	case err != nil:
		return "is not a URL"
	case u.Scheme == "sqlite" && (u.Path != "" || u.Opaque != ""):
		return ""
	case (u.Scheme == "postgres" || u.Scheme == "postgresql") && u.Host != "":
		return ""
	}
	return "must be sqlite:PATH or postgres://USER@HOST/DATABASE"
}

// Bytes is an amount of memory or disk.
type Bytes int64

var byteUnits = []struct {
	name string
	size Bytes
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3},
	{"B", 1}, {"", 1},
}

// UnmarshalText reads a whole number and a unit: B, kB, MB, GB, TB, KiB, MiB, GiB or TiB. A number
// alone is bytes.
func (b *Bytes) UnmarshalText(text []byte) error {
	s := string(text)
	for _, u := range byteUnits {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/int64(u.size) {
			break
		}
		*b = Bytes(n) * u.size
		return nil
	}
	return fmt.Errorf("%q is not an amount of bytes such as 512MiB", s)
}

// String returns the amount in the largest binary unit that divides it.
func (b Bytes) String() string {
	for _, u := range byteUnits[:4] {
		if b != 0 && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

// TierWeights are the tiers' shares of dispatch when all of them have more to do, as an option:
// "gold=16,silver=4,bronze=1".
type TierWeights fair.Weights

// String returns the weights as they are written.
func (w TierWeights) String() string {
	var b strings.Builder
	for tier, n := range w {
		if tier > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%s=%d", esh3ar.Tier(tier), n)
	}
	return b.String()
}

// MarshalText returns the weights as they are written.
func (w TierWeights) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// UnmarshalText reads weights. A tier that is not named keeps what it had.
func (w *TierWeights) UnmarshalText(text []byte) error {
	for part := range strings.SplitSeq(string(text), ",") {
		name, value, _ := strings.Cut(part, "=")
		tier, err := esh3ar.ParseTier(strings.TrimSpace(name))
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(strings.TrimSpace(value))
		if err != nil {
			return fmt.Errorf("the weight of %s, %q, is not a number", tier, value)
		}
		w[tier] = n
	}
	return nil
}
