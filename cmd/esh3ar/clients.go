package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/esh3artech/esh3ar/client"
)

// clientsCmd manages business clients and their API keys.
type clientsCmd struct {
	List   clientsListCmd   `cmd:"" name:"ls" help:"List the business clients."`
	Show   clientsShowCmd   `cmd:"" help:"Show a business client."`
	Create clientsCreateCmd `cmd:"" help:"Make a business client."`
	Set    clientsSetCmd    `cmd:"" help:"Change a business client. It works on every node within a second."`
	Remove clientsRemoveCmd `cmd:"" name:"rm" help:"Remove business clients whose keys have ended. Their ids are never used again."`
	Keys   clientKeysCmd    `cmd:"" help:"Manage a business client's API keys."`
}

// operator is how a subcommand reaches a server as its operator.
type operator struct {
	URL          string        `name:"url" env:"ESH3AR_URL" default:"http://127.0.0.1:8080" help:"The server's base URL."`
	AdminKey     string        `name:"admin-key" env:"ESH3AR_ADMIN_KEY" placeholder:"KEY" help:"The admin key."`
	AdminKeyFile string        `name:"admin-key-file" env:"ESH3AR_ADMIN_KEY_FILE" type:"path" placeholder:"FILE" help:"A file with the admin key, such as admin-key in the server's data directory."`
	Timeout      time.Duration `default:"1m" help:"Give up after this time."`
}

// dial returns what manages the server, and a context that ends after the time-out.
func (o *operator) dial(ctx context.Context) (*client.Admin, context.Context, context.CancelFunc, error) {
	key := o.AdminKey
	if key == "" {
		if o.AdminKeyFile == "" {
			return nil, nil, nil, errors.New("give the admin key with --admin-key-file, --admin-key or ESH3AR_ADMIN_KEY; the server keeps it in its data directory, in the file admin-key")
		}
		text, err := os.ReadFile(o.AdminKeyFile)
		if err != nil {
			return nil, nil, nil, err
		}
		key = strings.TrimSpace(string(text))
	}
	a, err := client.NewAdmin(o.URL, key, client.WithUserAgent("esh3ar"))
	if err != nil {
		return nil, nil, nil, errors.New(strings.Replace(strings.TrimPrefix(err.Error(), "client: "), "API key", "admin key", 1))
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	return a, ctx, func() { cancel(); a.Close() }, nil
}

// tenantFlags are the settings of a business client as flags; one that is not given changes nothing.
type tenantFlags struct {
	Name       *string  `placeholder:"NAME" help:"Its name, which devices see as the sender."`
	Tier       *string  `placeholder:"TIER" enum:"gold,silver,bronze" help:"Its service level: gold, silver or bronze."`
	Rate       *int     `placeholder:"N" help:"How many messages a second it may send; 0 for as many as it likes."`
	Burst      *int     `placeholder:"N" help:"How many it may send at once when it was quiet; 0 for one second's worth."`
	DailyQuota *int64   `placeholder:"N" help:"How many it may send in a day (UTC); 0 for as many as it likes."`
	Recipients *string  `placeholder:"PATTERN" help:"Whom it may send to: alternatives separated by spaces, in which * is any characters, as in '+962* shop-*'; '' for anybody."`
	Scopes     []string `placeholder:"SCOPE" help:"What its keys may be used for: send, read, dead-letters, webhooks, tokens."`
}

func (f *tenantFlags) settings() client.TenantSettings {
	return client.TenantSettings{
		Name: f.Name, Tier: f.Tier, Rate: f.Rate, Burst: f.Burst, DailyQuota: f.DailyQuota, Recipients: f.Recipients, Scopes: f.Scopes,
	}
}

// clientsListCmd lists business clients.
type clientsListCmd struct {
	operator
	JSON bool `name:"json" help:"Print a line of JSON for each client."`
}

// Run prints the list.
func (c *clientsListCmd) Run(ctx context.Context, std stdio) error {
	admin, ctx, done, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer done()
	return list[client.Tenant]{
		json: c.JSON,
		head: "ID\tNAME\tTIER\tRATE/S\tA DAY\tRECIPIENTS\tSTATE",
		row: func(w io.Writer, t *client.Tenant) {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.ID, terminal(t.Name), t.Tier, limitText(int64(t.Rate)), limitText(t.DailyQuota),
				terminal(anyText(t.Recipients)), stateText(t))
		},
	}.print(std, admin.Tenants(ctx))
}

func limitText(n int64) string {
	if n == 0 {
		return "-"
	}
	return strconv.FormatInt(n, 10)
}

func anyText(s string) string {
	if s == "" {
		return "*"
	}
	return s
}

func stateText(t *client.Tenant) string {
	if t.Suspended {
		return "suspended"
	}
	return "active"
}

// printTenant shows a business client.
func printTenant(out io.Writer, t client.Tenant, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(t)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	burst := limitText(int64(t.Burst))
	if t.Burst == 0 && t.Rate > 0 {
		burst = strconv.Itoa(t.Rate)
	}
	for _, line := range [][2]string{
		{"id", t.ID}, {"name", terminal(t.Name)}, {"state", stateText(&t)}, {"tier", t.Tier},
		{"rate", limitText(int64(t.Rate))}, {"burst", burst}, {"daily quota", limitText(t.DailyQuota)},
		{"recipients", terminal(anyText(t.Recipients))}, {"scopes", strings.Join(t.Scopes, ", ")}, {"created", clock(t.CreatedAt)},
	} {
		fmt.Fprintf(w, "%s\t%s\n", line[0], line[1])
	}
	return w.Flush()
}

// clientsShowCmd shows one business client.
type clientsShowCmd struct {
	operator
	ID   string `arg:"" help:"The client's id."`
	JSON bool   `name:"json" help:"Print JSON."`
}

// Run prints the client.
func (c *clientsShowCmd) Run(ctx context.Context, std stdio) error {
	admin, ctx, done, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer done()
	t, err := admin.Tenant(ctx, c.ID)
	if err != nil {
		return err
	}
	return printTenant(std.out, t, c.JSON)
}

// clientsCreateCmd makes a business client.
type clientsCreateCmd struct {
	operator
	tenantFlags
	ID   string `arg:"" help:"The client's id, for good: a-z, 0-9, '-', '_' and '.'."`
	JSON bool   `name:"json" help:"Print JSON."`
}

// Run makes the client and prints it.
func (c *clientsCreateCmd) Run(ctx context.Context, std stdio) error {
	admin, ctx, done, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer done()
	t, err := admin.CreateTenant(ctx, c.ID, c.settings())
	if err != nil {
		return err
	}
	return printTenant(std.out, t, c.JSON)
}

// clientsSetCmd changes a business client.
type clientsSetCmd struct {
	operator
	tenantFlags
	ID      string `arg:"" help:"The client's id."`
	Suspend bool   `xor:"suspended" help:"Let none of its keys work for now."`
	Resume  bool   `xor:"suspended" help:"Let its keys work again."`
	JSON    bool   `name:"json" help:"Print JSON."`
}

// Run changes the client and prints it.
func (c *clientsSetCmd) Run(ctx context.Context, std stdio) error {
	admin, ctx, done, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer done()
	s := c.settings()
	if c.Suspend || c.Resume {
		s.Suspended = &c.Suspend
	}
	t, err := admin.UpdateTenant(ctx, c.ID, s)
	if err != nil {
		return err
	}
	return printTenant(std.out, t, c.JSON)
}

// clientsRemoveCmd removes business clients.
type clientsRemoveCmd struct {
	operator
	IDs        []string `arg:"" name:"id" help:"The clients' ids."`
	RevokeKeys bool     `help:"Revoke the keys that still work first."`
}

// Run removes the clients, one after the other.
func (c *clientsRemoveCmd) Run(ctx context.Context, std stdio) error {
	admin, ctx, done, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer done()
	var failed []error
	for _, id := range c.IDs {
		if err := c.remove(ctx, admin, id); err != nil {
			failed = append(failed, err)
			continue
		}
		fmt.Fprintf(std.out, "%s removed\n", id)
	}
	return errors.Join(failed...)
}

func (c *clientsRemoveCmd) remove(ctx context.Context, admin *client.Admin, id string) error {
	if c.RevokeKeys {
		keys, err := admin.Keys(ctx, id)
		if err != nil {
			return err
		}
		for _, k := range keys {
			if k.Status != "active" {
				continue
			}
			if _, err := admin.RevokeKey(ctx, id, k.ID); err != nil {
				return err
			}
		}
	}
	return admin.DeleteTenant(ctx, id)
}
