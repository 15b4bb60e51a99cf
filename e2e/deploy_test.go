package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// container is a process as a deployment describes it.
type container struct {
	args []string
	env  map[string]string
}

// expansion is Kubernetes' $(NAME).
var expansion = regexp.MustCompile(`\$\([A-Z_]+\)`)

// run starts a container as a process, with nothing in its environment but what the deployment says. In all
// that it says, addresses are replaced by those of this machine.
func (c container) run(t *testing.T, here *strings.Replacer) *server {
	t.Helper()
	line := []string{program}
	for _, a := range c.args {
		line = append(line, here.Replace(expansion.ReplaceAllStringFunc(a, func(v string) string { return c.env[v[2:len(v)-1]] })))
	}
	s := prepare(t, line)
	s.cmd.Env = []string{raceOptions(t)}
	for name, value := range c.env {
		s.cmd.Env = append(s.cmd.Env, name+"="+here.Replace(value))
	}
	s.launch()
	return s
}

// acceptedBehind sends a message through a balancer of three nodes or more, with the key of the deployment.
func acceptedBehind(t *testing.T, b *server, address, key string) {
	t.Helper()
	b.url = "http://" + address
	a := newAPI(b.url)
	defer a.close()
	a.key = key
	b.await("the balancer to have a node", func() bool {
		resp, err := http.Get(b.url + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	m := a.mustSend(t, outgoing{To: "alice", Content: "hello"})
	b.awaitStatus(a, m.ID, "queued")
}

const deployedKey = "esh_key-of-a-deployment"

// deployedSecrets are what a deployment gets from elsewhere, by the names of the chart's secrets.
func deployedSecrets(store string) map[string]string {
	return map[string]string{
		"bootstrap-key": deployedKey, "admin-key": "the admin key of a deployment", "jwt-secret": strings.Repeat("j", 43),
		"cluster-secret": strings.Repeat("c", 43), "store-url": store,
	}
}

// What the chart makes starts: the real program, with exactly the arguments, the environment and the
// configuration file that it gives to each pod, as processes on this machine. The chart is rendered by deploy/check.
func TestChartStarts(t *testing.T) {
	t.Parallel()
	_, store := database(t)
	secrets := deployedSecrets(store)
	secrets["admin-key"] = strings.Repeat("a", 43)
	files := t.TempDir()
	pods := chartPods(t, files, secrets)
	core, elastic, front, scaler := pods["core"], pods["elastic"], pods["balancer"], pods["autoscaler"]

	const nodes = 3
	ports := freePorts(t, 3*nodes+3)
	names := make([]string, 0, 2*3*nodes)
	for i := range nodes {
		host := fmt.Sprintf("esh3ar-core-%d.esh3ar-core.messaging.svc:", i)
		names = append(names, host+"8080", ports[3*i], host+"6222", ports[3*i+1], host+"4222", ports[3*i+2])
	}
	listen := func(http, routes, nats, data string) *strings.Replacer {
		return strings.NewReplacer(append(slices.Clone(names), "0.0.0.0:8080", http, "0.0.0.0:6222", routes, "0.0.0.0:4222", nats,
			"/etc/esh3ar", filepath.Join(files, data), "/var/lib/esh3ar", filepath.Join(files, data, "data"))...)
	}
	start := func(c container, pod string, here *strings.Replacer) *server {
		dir := filepath.Join(files, pod)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"core.yaml", "elastic.yaml"} {
			raw, err := os.ReadFile(filepath.Join(files, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(here.Replace(string(raw))), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		env := make(map[string]string)
		for name, value := range c.env {
			env[name] = value
		}
		env["POD_NAME"], env["POD_IP"] = pod, "127.0.0.1"
		for name, value := range env {
			env[name] = expansion.ReplaceAllStringFunc(value, func(v string) string { return env[v[2:len(v)-1]] })
		}
		return container{c.args, env}.run(t, here)
	}
	var all []*server
	for i := range nodes {
		pod := fmt.Sprintf("esh3ar-core-%d", i)
		all = append(all, start(core, pod, listen(ports[3*i], ports[3*i+1], ports[3*i+2], pod)))
	}
	all = append(all, start(elastic, "esh3ar-elastic-x", strings.NewReplacer(append(slices.Clone(names), "0.0.0.0:8080", ports[3*nodes], "127.0.0.1:8080", ports[3*nodes],
		"/etc/esh3ar", filepath.Join(files, "esh3ar-elastic-x"), "/var/lib/esh3ar", filepath.Join(files, "elastic-data"))...)))
	for _, s := range all {
		if err := s.ready(); err != nil {
			t.Fatal(err)
		}
	}
	b := front.run(t, strings.NewReplacer("0.0.0.0:8000", ports[3*nodes+1], "0.0.0.0:8001", ports[3*nodes+2], "esh3ar-nodes.messaging.svc:8080", ports[0]))
	acceptedBehind(t, b, ports[3*nodes+1], deployedKey)

	// The autoscaler needs an API server. It gets as far as asking where that is.
	s := scaler.run(t, strings.NewReplacer(names...))
	<-s.gone
	exit, ok := errors.AsType[*exec.ExitError](s.err)
	if !ok || exit.ExitCode() != 1 || !strings.Contains(s.tail(4<<10), "not in a pod of Kubernetes") {
		t.Errorf("the autoscaler: %v\n%s", s.err, s.tail(4<<10))
	}
}

// chartPods reads the containers of the rendered chart by component, and writes its configuration files to a directory.
func chartPods(t *testing.T, files string, secrets map[string]string) map[string]container {
	t.Helper()
	f, err := os.Open("../deploy/check/testdata/rendered/plain.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	pods := make(map[string]container)
	for in := yaml.NewDecoder(f); ; {
		var o struct {
			Kind     string
			Metadata struct{ Labels map[string]string }
			Data     map[string]string
			Spec     struct {
				Template struct {
					Spec struct {
						Containers []struct {
							Args []string
							Env  []struct {
								Name, Value string
								ValueFrom   struct {
									SecretKeyRef struct{ Key string } `yaml:"secretKeyRef"`
								} `yaml:"valueFrom"`
							}
						}
					}
				}
			}
		}
		if err := in.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		switch o.Kind {
		case "ConfigMap":
			for name, text := range o.Data {
				if err := os.WriteFile(filepath.Join(files, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		case "StatefulSet", "Deployment":
			c := o.Spec.Template.Spec.Containers[0]
			p := container{c.Args, make(map[string]string)}
			for _, e := range c.Env {
				p.env[e.Name] = e.Value
				if key := e.ValueFrom.SecretKeyRef.Key; key != "" {
					if p.env[e.Name] = secrets[key]; secrets[key] == "" {
						t.Errorf("%s is from a secret's key %q, which is not known", e.Name, key)
					}
				}
			}
			pods[o.Metadata.Labels["app.kubernetes.io/component"]] = p
		}
	}
	return pods
}

// What compose.yaml says starts in the same way.
func TestComposeStarts(t *testing.T) {
	t.Parallel()
	_, store := database(t)
	raw, err := os.ReadFile("../compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`\$\{(\w+):\?[^}]*\}`).ReplaceAllStringFunc(string(raw), func(v string) string {
		if strings.HasPrefix(v, "${ESH3AR_BOOTSTRAP_KEY:") {
			return deployedKey
		}
		return strings.Repeat("s", 43)
	})
	var file struct {
		Services map[string]struct {
			Command     []string
			Environment map[string]string
		}
	}
	if err := yaml.Unmarshal([]byte(text), &file); err != nil {
		t.Fatal(err)
	}
	const nodes = 3
	ports := freePorts(t, 2*nodes+2)
	var names []string
	for i := range nodes {
		name := fmt.Sprintf("node-%d:", i+1)
		names = append(names, name+"8080", ports[2*i], name+"6222", ports[2*i+1])
	}
	var all []*server
	for i := range nodes {
		s, ok := file.Services[fmt.Sprintf("node-%d", i+1)]
		if !ok {
			t.Fatalf("there is no node-%d", i+1)
		}
		s.Environment["ESH3AR_STORE"] = store // its host's name is Compose's own
		// Those of the image.
		s.Environment["ESH3AR_DATA"], s.Environment["ESH3AR_LISTEN"] = t.TempDir(), "0.0.0.0:8080"
		all = append(all, container{s.Command, s.Environment}.run(t,
			strings.NewReplacer(append(slices.Clone(names), "0.0.0.0:8080", ports[2*i], "0.0.0.0:6222", ports[2*i+1])...)))
	}
	for _, s := range all {
		if err := s.ready(); err != nil {
			t.Fatal(err)
		}
	}
	b := container{file.Services["balancer"].Command, nil}.run(t,
		strings.NewReplacer(append(names, "0.0.0.0:8000", ports[2*nodes], "0.0.0.0:8001", ports[2*nodes+1])...))
	acceptedBehind(t, b, ports[2*nodes], deployedKey)
}
