// Package check holds what is shipped to run Esh3ar to the rules of those who read it: the chart to Helm's and to the
// API server's own, compose.yaml to Compose's.
package check

import (
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	"sigs.k8s.io/yaml"
)

const (
	chartDir  = "../helm/esh3ar"
	namespace = "messaging"
	release   = "esh3ar"
)

// kubeVersion is the Kubernetes whose rules are linked into this test.
func kubeVersion(t *testing.T) *chartutil.KubeVersion {
	t.Helper()
	v, err := chartutil.ParseKubeVersion("v1.37.2")
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func loadChart(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// valueSets returns the sets of values that the chart is tried with, by name.
func valueSets(t *testing.T) map[string]map[string]any {
	t.Helper()
	files, err := filepath.Glob("testdata/values/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no sets of values", err)
	}
	sets := make(map[string]map[string]any)
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var values map[string]any
		if err := yaml.UnmarshalStrict(raw, &values); err != nil {
			t.Fatal(file, err)
		}
		sets[strings.TrimSuffix(filepath.Base(file), ".yaml")] = values
	}
	return sets
}

// render returns the documents that the chart makes of values, in order.
func render(t *testing.T, values map[string]any) ([]string, error) {
	t.Helper()
	c := loadChart(t)
	all, err := chartutil.ToRenderValues(c, values, chartutil.ReleaseOptions{Name: release, Namespace: namespace, Revision: 1, IsInstall: true},
		&chartutil.Capabilities{KubeVersion: *kubeVersion(t), APIVersions: chartutil.DefaultVersionSet})
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return nil, err
	}
	var documents []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if path.Ext(name) != ".yaml" {
			continue
		}
		for d := range strings.SplitSeq("\n"+files[name], "\n---") {
			var object map[string]any
			if err := yaml.UnmarshalStrict([]byte(d), &object); err != nil {
				t.Fatalf("%s: %v\n%s", name, err, d)
			}
			if len(object) > 0 {
				documents = append(documents, strings.TrimSpace(d)+"\n")
			}
		}
	}
	return documents, nil
}

func mustRender(t *testing.T, values map[string]any) []string {
	t.Helper()
	documents, err := render(t, values)
	if err != nil {
		t.Fatal(err)
	}
	return documents
}

// What helm lint says, with warnings.
func TestLint(t *testing.T) {
	for name, values := range valueSets(t) {
		t.Run(name, func(t *testing.T) {
			l := lint.AllWithKubeVersion(chartDir, values, namespace, kubeVersion(t))
			for _, m := range l.Messages {
				if m.Severity >= support.WarningSev {
					t.Error(m)
				}
			}
		})
	}
}

// What cannot work is refused before anything is installed, with a word about it.
func TestValuesThatCannotWork(t *testing.T) {
	for name, c := range map[string]struct{ values, says string }{
		"no database":                   {`{}`, "store.existingSecret or store.url"},
		"no image":                      {`store: {existingSecret: x}` + "\n" + `image: {repository: ""}`, "build it, push it"},
		"a database of another kind":    {`store: {url: "mysql://x"}`, "store/url"},
		"a misspelled value":            {`store: {existingSecret: x}` + "\n" + `elastik: {enabled: true}`, "elastik"},
		"four nodes for the journal":    {`store: {existingSecret: x}` + "\n" + `core: {replicas: 4}`, "core/replicas"},
		"TLS without certificates":      {`store: {existingSecret: x}` + "\n" + `tls: {enabled: true}`, "existingSecret, or enable certManager"},
		"two autoscalers":               {`store: {existingSecret: x}` + "\n" + `elastic: {enabled: true, hpa: {enabled: true}}` + "\n" + `autoscaler: {enabled: true}`, "one of them alone"},
		"nothing to scale":              {`store: {existingSecret: x}` + "\n" + `autoscaler: {enabled: true}`, "nothing to scale"},
		"no nodes":                      {`store: {existingSecret: x}` + "\n" + `externalNATS: ["nats://a:4222"]`, "enable elastic"},
		"an option of the chart's own":  {`store: {existingSecret: x}` + "\n" + `options: {listen: ":80"}`, "options.listen"},
		"a secret among the options":    {`store: {existingSecret: x}` + "\n" + `options: {admin-key: abc}`, "options.admin-key"},
		"nodes' services without a URL": {`store: {existingSecret: x}` + "\n" + `core: {deviceServices: {enabled: true}}`, "core.deviceURL"},
		"an ingress without a host":     {`store: {existingSecret: x}` + "\n" + `ingress: {enabled: true}`, "ingress.host"},
	} {
		t.Run(name, func(t *testing.T) {
			values := map[string]any{"image": map[string]any{"repository": "registry.example/esh3ar"}}
			if err := yaml.UnmarshalStrict([]byte(c.values), &values); err != nil {
				t.Fatal(err)
			}
			_, err := render(t, values)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q in it", err, c.says)
			}
		})
	}
}
