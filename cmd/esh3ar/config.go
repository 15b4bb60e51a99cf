package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"github.com/esh3artech/esh3ar/internal/node"
)

const (
	// envPrefix begins the environment variables of the program's options.
	envPrefix = "ESH3AR_"
	// defaultConfigFile is read when it is there and --config does not name another.
	defaultConfigFile = "esh3ar.yaml"
)

// serverOptions is the server's configuration as the command line sees it. Each option is taken from
// the first place that has it: the flag, the environment, the configuration file, the default.
type serverOptions struct {
	ConfigFile string `name:"config" placeholder:"FILE" help:"YAML file of options by name. Without this, ./esh3ar.yaml is read if it is there."`
	// The options that may stand in the file are those of node.Config: the flags with a group.
	Node node.Config `embed:""`

	file optionFile
}

func defaultServerOptions() serverOptions { return serverOptions{Node: node.DefaultConfig()} }

// configCmd prints the effective configuration.
type configCmd struct {
	serverOptions
}

// Run prints each option with its value and its source, and returns what is wrong with them.
func (c *configCmd) Run(ctx *kong.Context, std stdio) error {
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	for _, flag := range ctx.Selected().Flags {
		if flag.Group != nil {
			fmt.Fprintf(w, "%s\t%s\t%s\n", flag.Name, cmp.Or(optionText(flag.Target), "-"), c.source(ctx, flag))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, name := range unknownVariables(ctx.Model.Node, os.Environ()) {
		fmt.Fprintf(std.err, "esh3ar: %s is set, but no option has that name\n", name)
	}
	return c.check(ctx)
}

// describeServerOptions gives the flags of the commands that take the server's options what follows
// from their names and from the struct that they stand in: the environment variable, and the default
// to reset to.
func describeServerOptions(k *kong.Kong) error {
	describeBelow(k.Model.Node)
	return nil
}

func describeBelow(n *kong.Node) {
	for _, command := range n.Children {
		describeBelow(command)
		if !slices.ContainsFunc(command.Flags, func(f *kong.Flag) bool { return f.Name == "config" }) {
			continue
		}
		for _, flag := range command.Flags {
			if flag.Name == "help" {
				continue
			}
			flag.Tag.Envs = []string{envPrefix + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))}
			flag.Envs = flag.Tag.Envs
			flag.Default = optionText(flag.Target)
			flag.HasDefault = flag.Default != ""
		}
	}
}

// BeforeResolve lets kong look into the configuration file for what neither the command line nor the
// environment has set.
func (o *serverOptions) BeforeResolve(ctx *kong.Context) error {
	flags := ctx.Selected().Flags
	i := slices.IndexFunc(flags, func(f *kong.Flag) bool { return f.Name == "config" })
	named := ctx.FlagValue(flags[i]).(string)
	file, err := readOptionFile(cmp.Or(named, defaultConfigFile))
	if errors.Is(err, fs.ErrNotExist) && named == "" {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range file.names() {
		if !slices.ContainsFunc(flags, func(f *kong.Flag) bool { return f.Name == name && f.Group != nil }) {
			return fmt.Errorf("%s: there is no option %q", file.place(name), name)
		}
	}
	o.file = file
	ctx.AddResolver(kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		text, ok := file.text(flag.Name)
		if !ok || environment(flag) != "" {
			return nil, nil
		}
		// Parsed into nothing first, so that a wrong value is reported with its place.
		attempt := &kong.DecodeContext{Value: flag.Value, Scan: kong.Scan().PushTyped(text, kong.FlagValueToken)}
		if err := flag.Mapper.Decode(attempt, reflect.New(flag.Target.Type()).Elem()); err != nil {
			return nil, fmt.Errorf("%w (from %s)", err, file.place(flag.Name))
		}
		return text, nil
	}))
	return nil
}

// check returns every impossible option, with where it came from.
func (o *serverOptions) check(ctx *kong.Context) error {
	err := o.Node.Validate()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	var all []error
	for _, err := range joined.Unwrap() {
		source := "default"
		if bad, ok := errors.AsType[*node.OptionError](err); ok {
			flags := ctx.Selected().Flags
			if i := slices.IndexFunc(flags, func(f *kong.Flag) bool { return f.Name == bad.Option }); i >= 0 {
				source = o.source(ctx, flags[i])
			}
		}
		all = append(all, fmt.Errorf("%w (from %s)", err, source))
	}
	return errors.Join(all...)
}

// source says where an option's value came from.
func (o *serverOptions) source(ctx *kong.Context, flag *kong.Flag) string {
	for _, p := range ctx.Path {
		if p.Flag == flag && !p.Resolved {
			return "--" + flag.Name
		}
	}
	if name := environment(flag); name != "" {
		return name
	}
	if _, ok := o.file.text(flag.Name); ok {
		return o.file.place(flag.Name)
	}
	return "default"
}

// environment returns the variable that sets the flag, "" if none is set.
func environment(flag *kong.Flag) string {
	for _, name := range flag.Envs {
		if _, ok := os.LookupEnv(name); ok {
			return name
		}
	}
	return ""
}

// unknownVariables returns the variables of the program's prefix that no option of any subcommand
// reads. They are worth a warning and no more: a cluster that runs a service called "esh3ar" sets
// ESH3AR_PORT and others of its own accord in every container.
func unknownVariables(app *kong.Node, environ []string) []string {
	known := make(map[string]bool)
	// The visitor never fails, so neither does the visit.
	_ = kong.Visit(app, func(v kong.Visitable, next kong.Next) error {
		if flag, ok := v.(*kong.Flag); ok {
			for _, name := range flag.Envs {
				known[name] = true
			}
		}
		return next(nil)
	})
	var unknown []string
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, envPrefix) && !known[name] {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	return unknown
}

// optionText returns an option's value as a user would write it, secrets masked.
func optionText(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case []string:
		return strings.Join(x, ",")
	case time.Duration:
		s := x.String()
		if strings.HasSuffix(s, "m0s") {
			s = strings.TrimSuffix(s, "0s")
		}
		if strings.HasSuffix(s, "h0m") {
			s = strings.TrimSuffix(s, "0m")
		}
		return s
	case slog.Level:
		return strings.ToLower(x.String())
	default:
		return fmt.Sprint(x)
	}
}

// environmentWithout returns the environment without the variables of that prefix.
func environmentWithout(prefix string) []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, prefix) {
			env = append(env, v)
		}
	}
	return env
}
