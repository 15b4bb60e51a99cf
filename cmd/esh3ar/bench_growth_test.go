package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBenchGrowth(t *testing.T) {
	reference := filepath.Join("..", "..", "internal", "growth", "testdata", "reference.jsonl")
	broken := filepath.Join(t.TempDir(), "broken.jsonl")
	if err := os.WriteFile(broken, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		want []string
	}{
		"the reference": {[]string{reference, "--batch", "1000", "--elastic", "5"}, 0,
			[]string{" a request, ", "validate", "recipients who are away", "100000 messages/s in requests of 1000 and 1000000 devices, on 8 nodes with 16 shards"}},
		"no shards":      {[]string{reference, "--shards", "0"}, 1, []string{"nothing can be said"}},
		"no such file":   {[]string{"nowhere.jsonl"}, 2, []string{"nowhere.jsonl"}},
		"no measurement": {[]string{broken}, 1, []string{broken + ": line 1"}},
	} {
		var out bytes.Buffer
		if code := run(t.Context(), append([]string{"bench", "growth"}, c.args...), stdio{out: &out, err: &out}); code != c.code {
			t.Errorf("%s: status %d, want %d: %s", name, code, c.code, &out)
		}
		for _, want := range c.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: %q is missing in\n%s", name, want, &out)
			}
		}
	}
}
