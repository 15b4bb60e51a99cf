package check

import (
	"context"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

const composeFile = "../../compose.yaml"

// compose returns the project as docker compose reads it, with these variables set.
func compose(t *testing.T, env []string) (*types.Project, error) {
	t.Helper()
	o, err := cli.NewProjectOptions([]string{composeFile}, cli.WithEnv(env), cli.WithInterpolation(true), cli.WithConsistency(true), cli.WithNormalization(true))
	if err != nil {
		t.Fatal(err)
	}
	return o.LoadProject(context.Background())
}

// secrets sets every variable that compose.yaml says has to be set.
func secrets(t *testing.T) (env []string) {
	t.Helper()
	raw, err := os.ReadFile(composeFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`\$\{(\w+):\?`).FindAllStringSubmatch(string(raw), -1) {
		if v := m[1] + "=0123456789abcdef0123456789abcdef"; !slices.Contains(env, v) {
			env = append(env, v)
		}
	}
	return env
}

func TestCompose(t *testing.T) {
	env := secrets(t)
	if len(env) != 5 {
		t.Fatalf("secrets: %q", env)
	}
	project, err := compose(t, env)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"postgres", "node-1", "node-2", "node-3", "balancer"} {
		s, err := project.GetService(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if s.HealthCheck == nil || len(s.HealthCheck.Test) == 0 {
			t.Errorf("%s has no health check", name)
		}
		if name == "postgres" {
			continue
		}
		if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) {
			t.Errorf("%s may write to its root or has capabilities", name)
		}
		for _, p := range s.Ports {
			if p.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is open to everybody", name, p.Published)
			}
		}
	}
	for _, name := range []string{"node-1", "node-2", "node-3"} {
		s := project.Services[name]
		drain := duration(t, s.Environment, "ESH3AR_DRAIN_TIMEOUT")
		least := duration(t, s.Environment, "ESH3AR_DRAIN_DELAY") + drain + drain/2
		if grace := time.Duration(*s.StopGracePeriod); grace <= least {
			t.Errorf("%s: %s for a stop that may take %s", name, grace, least)
		}
		if got := *s.Environment["ESH3AR_NODE_NAME"]; got != name {
			t.Errorf("%s is named %s", name, got)
		}
		if !strings.Contains(*s.Environment["ESH3AR_ROUTES"], *s.Environment["ESH3AR_CLUSTER_ADVERTISE"]) {
			t.Errorf("%s is not among the routes", name)
		}
		if len(s.Volumes) != 1 || s.Volumes[0].Source != name {
			t.Errorf("%s has the volumes %v", name, s.Volumes)
		}
	}
	// Without one of the secrets it does not start with an empty one.
	for i := range env {
		without := slices.Delete(slices.Clone(env), i, i+1)
		if _, err := compose(t, without); err == nil {
			t.Errorf("without %s it is taken", env[i])
		}
	}
}

func duration(t *testing.T, env types.MappingWithEquals, name string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(*env[name])
	if err != nil {
		t.Fatal(err)
	}
	return d
}
