package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/alecthomas/kong"

	"github.com/esh3artech/esh3ar/internal/node"
)

// minJWTSecret is the least length in bytes that RFC 7518, section 3.2, allows an HS256 secret.
const minJWTSecret = 32

// serveCmd runs the server until the process is told to stop.
type serveCmd struct {
	serverOptions
	AddrFile string `name:"addr-file" placeholder:"FILE" help:"Write the address to this file once it is bound, for scripts that let the system pick the port."`
}

// Run checks the configuration, binds, says how to reach the server and serves until ctx ends; then
// it drains. The greeting goes to standard output, the log to standard error.
func (c *serveCmd) Run(ctx context.Context, cmd *kong.Context, std stdio) error {
	if err := c.check(cmd); err != nil {
		return err
	}
	log := newLogger(std.err, c.Node)
	for _, name := range unknownVariables(cmd.Model.Node, os.Environ()) {
		log.Warn("environment variable is set, but no option has that name", "variable", name)
	}
	if n := len(c.Node.JWTSecret); n > 0 && n < minJWTSecret {
		log.Warn("jwt-secret is shorter than HS256 asks for", "bytes", n, "least", minJWTSecret)
	}
	tuneRuntime(c.Node)

	n, err := node.New(ctx, c.Node, log)
	if err != nil {
		return err
	}
	info := n.Info()
	if c.AddrFile != "" {
		if err := writeWhole(c.AddrFile, info.Addr+"\n"); err != nil {
			return errors.Join(err, n.Close())
		}
	}
	greet(std.out, info, c.Node.BootstrapKey != "")
	return n.Run(ctx)
}

// greet prints how to reach the server. A key that the operator configured is not repeated: the
// output of a server often ends in a log.
func greet(w io.Writer, info node.Info, configured bool) {
	key, shown := info.DevKey, info.DevKey
	if configured {
		key, shown = "$"+envPrefix+"BOOTSTRAP_KEY", "as configured (bootstrap-key)"
	}
	url := info.URL()
	admin := "the admin key is as configured (admin-key)"
	if info.AdminKeyFile != "" {
		admin = fmt.Sprintf("%s clients ls --url %s --admin-key-file %s", os.Args[0], url, info.AdminKeyFile)
	}
	if info.FirstStart {
		fmt.Fprintln(w, "A new deployment, with a development client and its key.")
	}
	fmt.Fprintf(w, `Esh3ar serves on %[1]s

  API key  %[3]s
  Receive  %[4]s listen --url %[1]s --key "%[2]s" --as alice
  Send     curl -i %[1]s/v1/messages -H "Authorization: Bearer %[2]s" -H 'Content-Type: application/json' -d '{"to": "alice", "content": "Hello"}'
  Clients  %[5]s

`, url, key, shown, os.Args[0], admin)
}

// newLogger returns the program's logger.
func newLogger(w io.Writer, c node.Config) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// tuneRuntime applies the options that concern the whole process.
func tuneRuntime(c node.Config) {
	if c.GCPercent > 0 {
		debug.SetGCPercent(c.GCPercent)
	}
	node.LimitMemory(c)
}

// writeWhole writes a file so that a reader sees either nothing or all of it.
func writeWhole(path, content string) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
