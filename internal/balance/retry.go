package balance

import (
	"bytes"
	"net/http"
)

// safety says whether a request may be sent to another node after one may have got it.
type safety uint8

const (
	// once: a second one may be carried out a second time (a POST without a key).
	once safety = iota
	// keyed: it has an Idempotency-Key, so that a second one gets the first one's answer.
	keyed
	// repeatable: by its method it may be repeated (RFC 9110, 9.2.2).
	repeatable
)

// safetyOf returns the safety of a request that net/http has read.
func safetyOf(r *http.Request) safety {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodTrace:
		return repeatable
	}
	if r.Header.Get("Idempotency-Key") != "" {
		return keyed
	}
	return once
}

// failure is how far a request got that a node did not answer.
type failure struct {
	err error
	// sent: some of it was, so the node may have carried it out.
	sent bool
	// timeout: the node did not hang up, it kept silent.
	timeout bool
}

// mayRepeat reports whether a request that failed at one node may go to another. Replayable says that
// all of it is still there.
//
// Before a byte was sent any may. Afterwards only one that does no harm twice: of the others nobody knows
// whether they were carried out, and the client is told so.
func mayRepeat(s safety, replayable bool, f failure) bool {
	return replayable && (!f.sent || s != once)
}

// refusedElsewhere reports whether an answer says that this node surely did not carry out the request
// but another one might: 503 or 507, with the code of a problem that is this node's own. In particular
// 503 outcome_unknown is not among them. The list is the one of docs/api.md, "surely not done".
func refusedElsewhere(status int, problem bool, body []byte) bool {
	if !problem || status != http.StatusServiceUnavailable && status != http.StatusInsufficientStorage {
		return false
	}
	switch problemCode(body) {
	case "overloaded", "journal_unavailable", "journal_full", "stopping", "store_unavailable", "api_key_not_checked":
		return true
	}
	return false
}

// isUnknown reports whether an answer says that nobody knows whether the request was carried out.
func isUnknown(status int, problem bool, body []byte) bool {
	return problem && status == http.StatusServiceUnavailable && problemCode(body) == "outcome_unknown"
}

// settles reports whether an answer is the truth about a request of which an earlier attempt may have
// been carried out: a refusal of a later attempt says nothing about the earlier one.
func settles(status int) bool {
	return status < 500 && status != http.StatusTooManyRequests
}

// problemCode returns the code of a problem document, "" where there is none. Nodes write it as
// "code":"…" without white space, once, behind members of fixed text.
func problemCode(body []byte) string {
	_, rest, ok := bytes.Cut(body, []byte(`"code":"`))
	if !ok {
		return ""
	}
	code, _, ok := bytes.Cut(rest, []byte(`"`))
	if !ok {
		return ""
	}
	return string(code)
}
