package node

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestDefaultConfigIsValid(t *testing.T) {
	c := DefaultConfig()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestValidateNamesTheOption(t *testing.T) {
	tests := []struct {
		option string
		value  string
		spoil  func(*Config)
	}{
		{"listen", "8080", func(c *Config) { c.Listen = "8080" }},
		{"listen", "127.0.0.1:http", func(c *Config) { c.Listen = "127.0.0.1:http" }},
		{"listen", "127.0.0.1:70000", func(c *Config) { c.Listen = "127.0.0.1:70000" }},
		{"debug-listen", "localhost", func(c *Config) { c.DebugListen = "localhost" }},
		{"allowed-origins", "https://a.example/path", func(c *Config) { c.AllowedOrigins = []string{"https://b.example", "https://a.example/path"} }},
		{"allowed-origins", "https://*.a.example", func(c *Config) { c.AllowedOrigins = []string{"https://*.a.example"} }},
		{"allowed-origins", "a.example", func(c *Config) { c.AllowedOrigins = []string{"a.example"} }},
		{"max-connections", "-1", func(c *Config) { c.MaxConnections = -1 }},
		{"header-timeout", "0s", func(c *Config) { c.HeaderTimeout = 0 }},
		{"body-timeout", "-1s", func(c *Config) { c.BodyTimeout = -time.Second }},
		{"idle-timeout", "0s", func(c *Config) { c.IdleTimeout = 0 }},
		{"drain-timeout", "-1ns", func(c *Config) { c.DrainTimeout = -1 }},
		{"bootstrap-key", "********", func(c *Config) { c.BootstrapKey = "two words" }},
		{"bootstrap-key", "********", func(c *Config) { c.BootstrapKey = Secret(strings.Repeat("k", 257)) }},
		{"data", " ", func(c *Config) { c.Data = " " }},
		{"store", "mysql://u:xxxxx@h/d", func(c *Config) { c.Store = "mysql://u:hidden@h/d" }},
		{"store", "********", func(c *Config) { c.Store = "postgres://u:hidden@h:port/d" }},
		{"store", "sqlite:", func(c *Config) { c.Store = "sqlite:" }},
		{"shards", "0", func(c *Config) { c.Shards = 0 }},
		{"shards", "4097", func(c *Config) { c.Shards = 4097 }},
		{"journal-size", "1MiB", func(c *Config) { c.JournalSize = 1 << 20 }},
		{"journal-keep", "-1s", func(c *Config) { c.JournalKeep = -time.Second }},
		{"disk-reserve", "-1B", func(c *Config) { c.DiskReserve = -1 }},
		{"publish-timeout", "0s", func(c *Config) { c.PublishTimeout = 0 }},
		{"retention", "1s", func(c *Config) { c.Retention, c.IdempotencyWindow = time.Second, 0 }},
		{"idempotency-window", "721h0m0s", func(c *Config) { c.IdempotencyWindow = 721 * time.Hour }},
		{"ack-timeout", "0s", func(c *Config) { c.AckTimeout = 0 }},
		{"max-attempts", "0", func(c *Config) { c.MaxAttempts = 0 }},
		{"backoff-base", "0s", func(c *Config) { c.BackoffBase = 0 }},
		{"backoff-cap", "1ms", func(c *Config) { c.BackoffCap = time.Millisecond }},
		{"window", "0", func(c *Config) { c.Window = 0 }},
		{"dispatch-memory", "1MiB", func(c *Config) { c.DispatchMemory = 1 << 20 }},
		{"device-url", "https://a.example", func(c *Config) { c.DeviceURL = "https://a.example" }},
		{"device-url", "a.example:8080", func(c *Config) { *c = clusterConfig(); c.DeviceURL = "a.example:8080" }},
		{"node-name", "", func(c *Config) { *c = clusterConfig(); c.NodeName = "" }},
		{"store", "", func(c *Config) { *c = clusterConfig(); c.Store = "" }},
		{"jwt-secret", "", func(c *Config) { *c = clusterConfig(); c.JWTSecret = "" }},
		{"cluster-secret", "", func(c *Config) { *c = clusterConfig(); c.ClusterSecret = "" }},
		{"routes", "node-1", func(c *Config) { *c = clusterConfig(); c.Routes = []string{"node-1"} }},
		{"cluster-listen", "6222", func(c *Config) { *c = clusterConfig(); c.ClusterListen = "6222" }},
		{"cluster-key", "", func(c *Config) { *c = clusterConfig(); c.ClusterCert = "node.crt" }},
		{"cluster-name", "", func(c *Config) { *c = clusterConfig(); c.ClusterName = "" }},
		{"log-format", "xml", func(c *Config) { c.LogFormat = "xml" }},
		{"gc-percent", "-1", func(c *Config) { c.GCPercent = -1 }},
		{"memory-limit", "-1B", func(c *Config) { c.MemoryLimit = -1 }},
	}
	for _, test := range tests {
		t.Run(test.option+" "+test.value, func(t *testing.T) {
			c := DefaultConfig()
			test.spoil(&c)
			err := c.Validate()
			wrong, ok := errors.AsType[*OptionError](err)
			if !ok {
				t.Fatalf("Validate() = %v, want an *OptionError", err)
			}
			if wrong.Option != test.option || wrong.Value != test.value {
				t.Errorf("Validate() blames %s %q, want %s %q", wrong.Option, wrong.Value, test.option, test.value)
			}
			if strings.Contains(err.Error(), "hidden") || strings.Contains(err.Error(), "two words") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

// clusterConfig is that of a node of three.
func clusterConfig() Config {
	c := DefaultConfig()
	c.ClusterName, c.NodeName, c.ClusterListen, c.Routes = "production", "node-1", ":6222", []string{"node-1:6222", "node-2:6222", "node-3:6222"}
	c.Store, c.JWTSecret, c.ClusterSecret = "postgres://db/esh3ar", "one", "another"
	return c
}

func TestValidateReportsEverything(t *testing.T) {
	c := DefaultConfig()
	c.Shards, c.Window, c.LogFormat = 0, 0, ""
	joined, ok := c.Validate().(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 3 {
		t.Fatalf("Validate() = %v, want three errors", c.Validate())
	}
}

func TestValidateAccepts(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"any port":        func(c *Config) { c.Listen = "[::1]:0" },
		"every interface": func(c *Config) { c.Listen = ":8080" },
		"origins":         func(c *Config) { c.AllowedOrigins = []string{"*", "http://localhost:3000"} },
		"sqlite path":     func(c *Config) { c.Store = "sqlite:/var/lib/esh3ar.db" },
		"sqlite relative": func(c *Config) { c.Store = "sqlite:esh3ar.db" },
		"postgres":        func(c *Config) { c.Store = "postgres://u:p@db:5432/esh3ar?sslmode=require" },
		"a node of three": func(c *Config) { *c = clusterConfig() },
		"a device's URL":  func(c *Config) { *c = clusterConfig(); c.DeviceURL = "https://node-1.example.com" },
		"no window":       func(c *Config) { c.IdempotencyWindow = 0 },
		"short key":       func(c *Config) { c.BootstrapKey = "dev" },
	} {
		c := DefaultConfig()
		change(&c)
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSecretsDoNotShow(t *testing.T) {
	c := DefaultConfig()
	c.BootstrapKey, c.JWTSecret, c.Store = "hidden", "hidden", "postgres://u:hidden@h/d"
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("", "config", c)
	slog.New(slog.NewTextHandler(&log, nil)).Info("", "config", c, "key", c.BootstrapKey, "store", c.Store)
	for _, shown := range []string{log.String(), fmt.Sprintf("%v %+v %#v %s", c, c, c, c.BootstrapKey)} {
		if strings.Contains(shown, "hidden") {
			t.Errorf("a secret shows in %s", shown)
		}
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{
		"0": 0, "17": 17, "17B": 17, "3kB": 3000, "4 MB": 4e6, "5GB": 5e9, "1TB": 1e12,
		"6KiB": 6 << 10, "7MiB": 7 << 20, "8GiB": 8 << 30, "9TiB": 9 << 40,
	} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b != want {
			t.Errorf("%q is %d, %v; want %d", text, b, err, want)
		}
		var again Bytes
		if err := again.UnmarshalText([]byte(b.String())); err != nil || again != b {
			t.Errorf("%s is written %q and read back as %d, %v", text, b, again, err)
		}
	}
	for _, text := range []string{"", "B", "MiB", "1.5GiB", "-1", "1XB", "1 Mi B", "9999999999TiB", "99999999999999999999"} {
		b := Bytes(42)
		if err := b.UnmarshalText([]byte(text)); err == nil || b != 42 {
			t.Errorf("%q is taken for %d", text, b)
		}
	}
}

func TestTierWeights(t *testing.T) {
	w := DefaultConfig().TierWeights
	if err := w.UnmarshalText([]byte("gold=8, bronze=2")); err != nil || w != (TierWeights{8, 4, 2}) {
		t.Errorf("weights %s, %v", w, err)
	}
	again := TierWeights{}
	if err := again.UnmarshalText([]byte(w.String())); err != nil || again != w {
		t.Errorf("read back as %s, %v", again, err)
	}
	for _, text := range []string{"", "gold", "gold=", "gold=x", "platinum=3", "gold=1,,bronze=2"} {
		if err := w.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	c := DefaultConfig()
	c.TierWeights[1] = 0
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "tier-weights") {
		t.Errorf("a weight of 0: %v", err)
	}
}
