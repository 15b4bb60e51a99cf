package check

import (
	"os"
	"regexp"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

// documented returns the metrics that the documents list; tests of the program hold the lists to the program.
func documented(t *testing.T) map[string]bool {
	t.Helper()
	known := make(map[string]bool)
	for _, file := range []string{"../../docs/operations.md", "../../docs/autoscaling.md"} {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?m)^\\| `(esh3ar_[a-z_]+)").FindAllStringSubmatch(string(raw), -1) {
			known[m[1]] = true
		}
	}
	return known
}

// anchors returns the sections of a document as links name them.
func anchors(t *testing.T, file string) map[string]bool {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(string(raw), -1) {
		all[regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(m[1]), "")] = true
	}
	for name := range all {
		all[strings.ReplaceAll(name, " ", "-")] = true
	}
	return all
}

// Every alert is PromQL over metrics that there are, and leads to a section that says what to do.
func TestAlerts(t *testing.T) {
	known, sections := documented(t), anchors(t, "../../docs/operations.md")
	tried := 0
	for name, values := range valueSets(t) {
		for _, o := range objects(t, values) {
			if o.Kind != "PrometheusRule" {
				continue
			}
			var r monitoring.PrometheusRule
			if err := yaml.UnmarshalStrict(o.raw, &r); err != nil {
				t.Fatal(err)
			}
			for _, rule := range r.Spec.Groups[0].Rules {
				tried++
				expr, err := parser.NewParser(parser.Options{}).ParseExpr(rule.Expr.String())
				if err != nil {
					t.Errorf("%s: %s: %v", name, rule.Alert, err)
					continue
				}
				parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
					v, ok := n.(*parser.VectorSelector)
					if !ok || !strings.HasPrefix(v.Name, "esh3ar_") {
						return nil
					}
					if base := strings.TrimSuffix(v.Name, "_bucket"); !known[base] {
						t.Errorf("%s: %s: no document lists %s", name, rule.Alert, base)
					}
					return nil
				})
				_, section, _ := strings.Cut(rule.Annotations["runbook_url"], "#")
				if section == "" || !sections[section] {
					t.Errorf("%s: %s: docs/operations.md has no section %q", name, rule.Alert, section)
				}
				if rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" || rule.Labels["severity"] == "" {
					t.Errorf("%s: %s has no summary, description or severity", name, rule.Alert)
				}
			}
		}
	}
	if tried == 0 {
		t.Error("no alert was tried")
	}
}

// What Kubernetes' own autoscaler looks at are metrics that there are.
func TestScalingMetrics(t *testing.T) {
	known := documented(t)
	found := 0
	for _, o := range objects(t, valueSets(t)["hpa"]) {
		if o.Kind != "HorizontalPodAutoscaler" {
			continue
		}
		for _, m := range regexp.MustCompile(`esh3ar_[a-z_]+`).FindAllString(string(o.raw), -1) {
			found++
			if !known[m] {
				t.Errorf("no document lists %s", m)
			}
		}
	}
	if found == 0 {
		t.Error("it looks at none of our metrics")
	}
}
