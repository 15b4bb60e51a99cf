package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// versionCmd prints what was built, from what and with what.
type versionCmd struct{}

// Run prints one line. What the build does not know is "(devel)" or "unknown".
func (versionCmd) Run(std stdio) error {
	version, revision, changed := "(devel)", "unknown", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
			version = info.Main.Version
		}
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				revision = s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				changed = ", with local changes"
			}
		}
	}
	_, err := fmt.Fprintf(std.out, "esh3ar %s (commit %s%s), %s %s/%s\n", version, revision, changed, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
