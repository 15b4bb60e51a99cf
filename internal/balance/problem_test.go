package balance

import (
	"encoding/json"
	"testing"

	"github.com/esh3artech/esh3ar/internal/apidoc"
)

// What the balancer answers is what the page of each problem says. That every code has a page, a test of the pages shows.
func TestProblemsAreAsDescribed(t *testing.T) {
	rows, err := apidoc.Problems()
	if err != nil {
		t.Fatal(err)
	}
	pages := make(map[string]apidoc.Problem)
	for _, r := range rows {
		pages[r.Code] = r
	}
	all := []*problem{noNode(), draining(), slowBody(), brokenBody(), slowHeader(), bodyTooLarge(), headerTooLarge(), unknownRoute()}
	for _, unknown := range []bool{false, true} {
		for _, f := range []failure{{}, {timeout: true}, {sent: true}, {sent: true, timeout: true}} {
			all = append(all, failed(f, unknown))
		}
	}
	for _, request := range []string{
		"nonsense\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\n\r\n", "GET / HTTP/3.0\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
	} {
		_, _, v, why := parseRequest([]byte(request), nil, &forwarded{})
		if v != bad {
			t.Errorf("%q is not bad", request)
		}
		all = append(all, why.problem())
	}
	for _, p := range all {
		var d struct {
			Type, Title, Detail, Code string
			Status                    int
			Permanent                 bool
		}
		if err := json.Unmarshal(p.document(nil), &d); err != nil {
			t.Fatal(err)
		}
		page, ok := pages[d.Code]
		if !ok || d.Type != "/problems/"+page.Slug() || d.Title != page.Title || d.Permanent != page.Permanent || d.Detail == "" {
			t.Errorf("answered %+v, and the page is %+v", d, page)
		}
		// Servers answer outcome_unknown themselves, with another status.
		if d.Status != page.Status && d.Code != "outcome_unknown" {
			t.Errorf("%s has the status %d, and on its page %d", d.Code, d.Status, page.Status)
		}
	}
}
