package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/jsonobject"
	"github.com/esh3artech/esh3ar/internal/store"
)

const (
	maxBody        = 16 << 10 // bytes of a request's body
	maxURL         = 2048     // bytes
	maxDescription = 200      // characters
	maxTypes       = 32       // entries of the list, repeats included
	maxBatch       = 500      // events
	// lookupTime bounds how long the addresses of a new URL are looked for.
	lookupTime = 2 * time.Second
	typePrefix = "message."
)

// fields are the members of a request's body that nobody has asked for yet.
type fields map[string]json.RawMessage

// readFields reads a body that is a JSON object, or empty.
func readFields(r *http.Request) (fields, error) {
	members, err := jsonobject.Read(r.Body, maxBody)
	if err != nil {
		return nil, err
	}
	f := make(fields)
	for i := range members {
		m := &members[i]
		if f.has(m.Name) {
			return nil, esh3ar.Errorf(esh3ar.KindInvalid, "duplicate_field", "the field is given twice").At(m.Pointer())
		}
		f[m.Name] = m.Value
	}
	return f, nil
}

// noBody refuses a body.
func noBody(r *http.Request) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	return f.done()
}

// done refuses what nobody has asked for.
func (f fields) done() error {
	for name := range f {
		return esh3ar.Errorf(esh3ar.KindInvalid, "unknown_field", "this request has no such field").At(jsonobject.Member{Name: name}.Pointer())
	}
	return nil
}

// take reads a member into v. It reports whether it is there and not null.
func (f fields) take(name string, v any, kind string) (set bool, err error) {
	raw, ok := f[name]
	delete(f, name)
	if !ok || string(raw) == "null" {
		return false, nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return false, esh3ar.Errorf(esh3ar.KindInvalid, "wrong_type", "the field must be %s", kind).At("/" + name)
	}
	return true, nil
}

// has reports whether the member is there, null or not.
func (f fields) has(name string) bool {
	_, ok := f[name]
	return ok
}

// seconds reads a duration in whole seconds.
func (f fields) seconds(name string, def, most time.Duration) (time.Duration, error) {
	var n float64
	set, err := f.take(name, &n, "a number of seconds")
	switch {
	case err != nil:
		return 0, err
	case !set:
		return def, nil
	case n < 0 || n > most.Seconds() || n != math.Trunc(n):
		return 0, esh3ar.Errorf(esh3ar.KindInvalid, "out_of_range", "the field is a whole number from 0 to %d", int(most.Seconds())).At("/" + name)
	}
	return time.Duration(n) * time.Second, nil
}

// since reads where a replay begins: a time or a cursor.
func (f fields) since() (at time.Time, cursor string, err error) {
	var since string
	bySince, err := f.take("since", &since, "a time (RFC 3339)")
	if err != nil {
		return at, "", err
	}
	byCursor, err := f.take("cursor", &cursor, "a string")
	switch {
	case err != nil:
		return at, "", err
	case bySince == byCursor:
		return at, "", esh3ar.Errorf(esh3ar.KindInvalid, "since_or_cursor", "give either since, a time, or cursor, a place in your events").At("/since")
	case byCursor && cursor == "":
		return at, "", esh3ar.Errorf(esh3ar.KindInvalid, "bad_cursor", "the cursor is empty").At("/cursor")
	case byCursor:
		return at, cursor, nil
	}
	if at, err = time.Parse(time.RFC3339Nano, since); err != nil {
		return at, "", esh3ar.Errorf(esh3ar.KindInvalid, "bad_time", "the time must be like 2026-03-01T12:00:00Z (RFC 3339)").At("/since")
	}
	return at, "", nil
}

// atField names the field of a body where notify names a parameter.
func atField(err error) error {
	var e *esh3ar.Error
	if errors.As(err, &e) && e.Pointer == "cursor" {
		return e.At("/cursor")
	}
	return err
}

// apply changes a webhook as the fields say. A field that is null gets its default, one that is left out
// stays; a new webhook must have a URL.
func (s *Service) apply(ctx context.Context, hook *store.Webhook, f fields, fresh bool) error {
	if fresh || f.has("url") {
		var raw string
		set, err := f.take("url", &raw, "a string")
		if err == nil && !set {
			err = esh3ar.Errorf(esh3ar.KindInvalid, "url_missing", "a webhook needs a URL").At("/url")
		}
		if err == nil {
			err = s.checkURL(ctx, raw)
		}
		if err != nil {
			return err
		}
		hook.URL = raw
	}
	if f.has("types") {
		var err error
		if hook.Statuses, err = f.types(); err != nil {
			return err
		}
	}
	if f.has("description") {
		hook.Description = ""
		if _, err := f.take("description", &hook.Description, "a string"); err != nil {
			return err
		}
		if utf8.RuneCountInString(hook.Description) > maxDescription || strings.ContainsFunc(hook.Description, unicode.IsControl) {
			return esh3ar.Errorf(esh3ar.KindInvalid, "bad_description", "the description has at most %d characters, on one line", maxDescription).At("/description")
		}
	}
	if f.has("format") {
		hook.Format = formatEvent
		if _, err := f.take("format", &hook.Format, "a string"); err != nil {
			return err
		}
		if hook.Format != formatEvent && hook.Format != formatCloudEvent {
			return esh3ar.Errorf(esh3ar.KindInvalid, "unknown_format", "the format is %s or %s", formatEvent, formatCloudEvent).At("/format")
		}
	}
	if f.has("batch_max") {
		hook.BatchMax = 1
		if _, err := f.take("batch_max", &hook.BatchMax, "a whole number"); err != nil {
			return err
		}
		if hook.BatchMax < 1 || hook.BatchMax > maxBatch {
			return esh3ar.Errorf(esh3ar.KindInvalid, "out_of_range", "a batch has from 1 to %d events", maxBatch).At("/batch_max")
		}
	}
	if f.has("enabled") {
		enabled := true
		if _, err := f.take("enabled", &enabled, "true or false"); err != nil {
			return err
		}
		switch {
		case enabled:
			hook.DisabledAt, hook.DisabledReason = time.Time{}, ""
		case hook.DisabledAt.IsZero():
			hook.DisabledAt, hook.DisabledReason = hook.UpdatedAt, reasonByClient
		}
	}
	return f.done()
}

// types reads the list of event types, each as in an event's type or without its prefix. None is all.
func (f fields) types() ([]esh3ar.Status, error) {
	var names []string
	if _, err := f.take("types", &names, "a list of strings"); err != nil {
		return nil, err
	}
	if len(names) > maxTypes {
		return nil, esh3ar.Errorf(esh3ar.KindInvalid, "too_many_types", "the list has at most %d types", maxTypes).At("/types")
	}
	var list []esh3ar.Status
	for i, name := range names {
		status, err := esh3ar.ParseStatus(strings.TrimPrefix(name, typePrefix))
		if err != nil || status == esh3ar.StatusAccepted {
			return nil, esh3ar.Errorf(esh3ar.KindInvalid, "unknown_type", "%q is not a type of event; there are %s",
				jsonobject.Clip(name), strings.Join(allTypes(), ", ")).At(fmt.Sprintf("/types/%d", i))
		}
		list = append(list, status)
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

func allTypes() []string {
	var names []string
	for status := esh3ar.StatusAccepted + 1; status.Valid(); status++ {
		names = append(names, typePrefix+status.String())
	}
	return names
}

// checkURL makes sure that a URL is one that may be called, as far as can be told now: what its name stands
// for is checked again with every connection.
func (s *Service) checkURL(ctx context.Context, raw string) error {
	bad := func(code, format string, args ...any) error {
		return esh3ar.Errorf(esh3ar.KindInvalid, code, format, args...).At("/url")
	}
	if len(raw) > maxURL {
		return bad("url_too_long", "the URL has at most %d bytes", maxURL)
	}
	if strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return bad("bad_url", "the URL holds a character that must be percent-encoded, or a host that must be in Punycode")
	}
	u, err := url.Parse(raw)
	if err != nil || u.Opaque != "" || u.Hostname() == "" {
		return bad("bad_url", "the URL must be like https://example.com/path")
	}
	host := u.Hostname()
	switch {
	case u.User != nil:
		return bad("url_with_credentials", "the URL must not hold a user or a password; requests are signed instead")
	case u.Fragment != "":
		return bad("bad_url", "the URL must not have a fragment")
	case isNumeric(host):
		return bad("bad_url", "write the host as a name, or as an IP address in its usual form")
	case u.Scheme == "http" && (!isLoopbackName(host) || !s.allowsLoopback()):
		return bad("https_required", "the URL must begin with https://")
	case u.Scheme != "http" && u.Scheme != "https":
		return bad("https_required", "the URL must begin with https://")
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	for _, a := range s.lookup(ctx, host) {
		if !s.sender.policy.allows(a) {
			return bad("address_not_allowed", "%s is not a public address", a)
		}
	}
	return nil
}

// allowsLoopback reports whether some loopback address may be called.
func (s *Service) allowsLoopback() bool {
	return slices.ContainsFunc(s.opts.Addresses.Allow, func(p netip.Prefix) bool { return p.Addr().Unmap().IsLoopback() })
}

// lookup returns the addresses of a host, none if they cannot be found at the moment.
func (s *Service) lookup(ctx context.Context, host string) []netip.Addr {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}
	}
	found, err := s.sender.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil
	}
	for i := range found {
		found[i] = found[i].Unmap()
	}
	return found
}
