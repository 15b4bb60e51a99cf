package check

import (
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/rendered anew")

// rendered is what the chart makes of the values plain. The end-to-end tests of the program start what stands in it.
const rendered = "testdata/rendered/plain.yaml"

func TestRenderedIsOfTheChart(t *testing.T) {
	text := "# Made by go test -run Rendered -update; do not edit.\n---\n" + strings.Join(mustRender(t, valueSets(t)["plain"]), "---\n")
	if *update {
		if err := os.WriteFile(rendered, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(rendered)
	if err != nil {
		t.Fatal(err)
	}
	if string(raw) != text {
		t.Errorf("%s is not what the chart makes: go test -run Rendered -update", rendered)
	}
}
