package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/client"
)

// clientKeysCmd manages the API keys of a business client.
type clientKeysCmd struct {
	List   keysListCmd   `cmd:"" name:"ls" help:"List a client's API keys, newest first."`
	Create keysCreateCmd `cmd:"" help:"Make an API key and print it. It is shown this once."`
	Rotate keysRotateCmd `cmd:"" help:"Make an API key in place of another one, which works on for a while, and print it. It is shown this once."`
	Revoke keysRevokeCmd `cmd:"" help:"End API keys, on every node within a second."`
}

// keysListCmd lists API keys.
type keysListCmd struct {
	operator
	Client string `arg:"" help:"The client's id."`
	JSON   bool   `name:"json" help:"Print a line of JSON for each key."`
}

// Run prints the list.
func (c *keysListCmd) Run(ctx context.Context, std stdio) error {
	admin, ctx, done, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer done()
	keys, err := admin.Keys(ctx, c.Client)
	if err != nil {
		return err
	}
	return list[client.APIKey]{
		json: c.JSON,
		head: "ID\tNAME\tKEY\tSTATE\tSCOPES\tCREATED\tLAST USED\tENDS",
		row: func(w io.Writer, k *client.APIKey) {
			scopes, ends := strings.Join(k.Scopes, ","), k.ExpiresAt
			if scopes == "" {
				scopes = "all"
			}
			if !k.RevokedAt.IsZero() {
				ends = k.RevokedAt
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, terminal(k.Name), terminal(k.Hint), k.Status, scopes,
				clock(k.CreatedAt), clockOr(k.LastUsedAt, "never"), clockOr(ends, "-"))
		},
	}.print(std, values(keys))
}

// clockOr shows a time, or something else for none.
func clockOr(t time.Time, none string) string {
	if t.IsZero() {
		return none
	}
	return clock(t)
}

// printSecret prints a new key: the secret alone to standard output, for scripts, and what people should know
// to standard error.
func printSecret(std stdio, k client.APIKey, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(std.out).Encode(k)
	}
	fmt.Fprintf(std.err, "API key %s of client %s. It is shown this once; keep it safe.\n", k.ID, k.Client)
	if k.Replaces != nil {
		fmt.Fprintf(std.err, "The key %s works until %s.\n", k.Replaces.ID, clock(k.Replaces.ExpiresAt))
	}
	_, err := fmt.Fprintln(std.out, k.Secret)
	return err
}

// keysCreateCmd makes an API key.
type keysCreateCmd struct {
	operator
	Client    string        `arg:"" help:"The client's id."`
	Name      string        `placeholder:"NAME" help:"What to call the key."`
	Scopes    []string      `placeholder:"SCOPE" help:"What it may be used for, of what the client may; all of it if not given."`
	ExpiresIn time.Duration `xor:"end" placeholder:"TIME" help:"How long it works, such as 2160h."`
	ExpiresAt time.Time     `xor:"end" placeholder:"TIME" help:"Until when it works (RFC 3339)."`
	JSON      bool          `name:"json" help:"Print JSON."`
}

// Run makes the key and prints it.
func (c *keysCreateCmd) Run(ctx context.Context, std stdio) error {
	if c.ExpiresIn < 0 {
		return errors.New("--expires-in is negative")
	}
	admin, ctx, done, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer done()
	s := client.KeySettings{Name: c.Name, Scopes: c.Scopes, ExpiresAt: c.ExpiresAt}
	if c.ExpiresIn > 0 {
		s.ExpiresAt = time.Now().Add(c.ExpiresIn)
	}
	k, err := admin.CreateKey(ctx, c.Client, s)
	if err != nil {
		return err
	}
	return printSecret(std, k, c.JSON)
}

// keysRotateCmd replaces an API key.
type keysRotateCmd struct {
	operator
	Client  string        `arg:"" help:"The client's id."`
	Key     string        `arg:"" help:"The id of the key to replace, or the key itself."`
	Overlap time.Duration `default:"24h" help:"How long the old key works on; at most 2160h."`
	JSON    bool          `name:"json" help:"Print JSON."`
}

// Run replaces the key and prints the new one.
func (c *keysRotateCmd) Run(ctx context.Context, std stdio) error {
	admin, ctx, done, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer done()
	k, err := admin.RotateKey(ctx, c.Client, keyID(c.Key), c.Overlap)
	if err != nil {
		return err
	}
	return printSecret(std, k, c.JSON)
}

// keysRevokeCmd ends API keys.
type keysRevokeCmd struct {
	operator
	Client string   `arg:"" help:"The client's id."`
	Keys   []string `arg:"" name:"key" help:"The ids of the keys, or the keys themselves."`
}

// Run revokes the keys, one after the other.
func (c *keysRevokeCmd) Run(ctx context.Context, std stdio) error {
	admin, ctx, done, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer done()
	var failed []error
	for _, key := range c.Keys {
		k, err := admin.RevokeKey(ctx, c.Client, keyID(key))
		if err != nil {
			failed = append(failed, err)
			continue
		}
		fmt.Fprintf(std.out, "%s revoked at %s\n", k.ID, clock(k.RevokedAt))
	}
	return errors.Join(failed...)
}

// keyID returns the id that names an API key where somebody gives the key itself.
func keyID(key string) string {
	if len(key) > len(esh3ar.KeyPrefix)+20 {
		return esh3ar.KeyID(key)
	}
	return key
}
