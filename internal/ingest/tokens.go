package ingest

import (
	"net/http"
	"time"

	"github.com/esh3artech/esh3ar"
)

// maxTokenRequest bounds the body of a request for a token, in bytes.
const maxTokenRequest = 4 << 10

// maxTokenTTL is the longest life of a token that can be written down; who mints it may allow less.
const maxTokenTTL = esh3ar.MaxTTL

// mintToken serves POST /v1/recipient-tokens.
func (a *API) mintToken(w http.ResponseWriter, r *http.Request) error {
	_, err := a.keys.caller(r, esh3ar.ScopeTokens)
	switch {
	case err != nil:
		return err
	case a.tokens == nil:
		return esh3ar.Errorf(esh3ar.KindForbidden, "tokens_not_minted_here", "device tokens are issued by your identity provider, not here")
	}
	if err := checkContentType(r.Header); err != nil {
		return err
	}
	body, err := readBody(r, nil, maxTokenRequest)
	if err != nil {
		return err
	}
	sub, ttl, err := readTokenRequest(body)
	if err != nil {
		return err
	}
	token, expires, err := a.tokens.Mint(sub, ttl)
	if err != nil {
		return err
	}
	out := appendString([]byte(`{"token":`), token)
	out = appendString(append(out, `,"sub":`...), sub)
	out = appendTimeMember(out, "expires_at", expires)
	a.answer(w, http.StatusOK, append(out, "}\n"...))
	return nil
}

// readTokenRequest reads {"sub": recipient, "ttl": seconds}. A ttl that is left out is 0.
func readTokenRequest(body []byte) (sub string, ttl time.Duration, err error) {
	var d decoder
	if err := d.open(body); err != nil {
		return "", 0, err
	}
	seen := make(map[string]bool, 2)
	for n := 0; d.member(n); n++ {
		name := d.name
		c := d.peek()
		switch {
		case name != "sub" && name != "ttl":
			d.fault(pointer("", clip(name)), "unknown_field", "a request for a token has no such field")
			d.skip(1)
		case seen[name]:
			d.fault("/"+name, "duplicate_field", "the field is given twice")
			d.skip(1)
		case c == 'n':
			d.word("null")
		case name == "ttl":
			var fault error
			if ttl, fault = d.seconds(c, int64(maxTokenTTL/time.Second)); fault != nil {
				d.refuse("/ttl", fault)
			}
		case c != '"':
			if d.skip(1) {
				d.refuse("/sub", wrongType("a string", c))
			}
		default:
			var fault error
			raw, ok := d.str()
			if !ok {
				break
			}
			if sub, fault = esh3ar.NormalizeRecipient(raw); fault != nil {
				d.refuse("/sub", fault)
			}
		}
		seen[name] = true
	}
	if !d.end() {
		return "", 0, d.err
	}
	if sub == "" && len(d.faults) == 0 {
		d.fault("/sub", "recipient_missing", "give the recipient in sub: a telephone number or a user name")
	}
	if len(d.faults) > 0 {
		return "", 0, d.faults
	}
	return sub, ttl, nil
}
