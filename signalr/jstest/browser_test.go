package jstest

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"testing"
)

// browsers are the names that a Chromium may have.
var browsers = []string{"chromium", "chromium-browser", "google-chrome"}

// TestChromium runs the scenarios in a page of another origin than the hub's,
// so that every request needs CORS and the token is in the query.
func TestChromium(t *testing.T) {
	t.Parallel()
	executable := ""
	for _, name := range browsers {
		if path, err := exec.LookPath(name); err == nil {
			executable = path
			break
		}
	}
	if executable == "" {
		t.Fatalf("none of %v is on the PATH: apt-get install chromium", browsers)
	}
	install(t, "current")
	pages := httptest.NewServer(http.FileServer(http.Dir(".")))
	defer pages.Close()
	configs := []config{
		startSite(t).config("WebSockets", "json"), startSite(t).config("WebSockets", "messagepack"),
		startSite(t).config("ServerSentEvents", "json"),
	}
	arg, err := json.Marshal(configs)
	if err != nil {
		t.Fatal(err)
	}
	results(t, run(t, "browser.mjs", pages.URL+"/page.html", string(arg), executable), len(configs)*15)
}
