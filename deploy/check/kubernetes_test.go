package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/apps/statefulset"
	"k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler"
	"k8s.io/kubernetes/pkg/registry/core/configmap"
	"k8s.io/kubernetes/pkg/registry/core/pod"
	"k8s.io/kubernetes/pkg/registry/core/secret"
	"k8s.io/kubernetes/pkg/registry/core/service"
	"k8s.io/kubernetes/pkg/registry/core/serviceaccount"
	"k8s.io/kubernetes/pkg/registry/networking/ingress"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
	"k8s.io/kubernetes/pkg/registry/rbac/role"
	"k8s.io/kubernetes/pkg/registry/rbac/rolebinding"
	podsecurity "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

// strategies are what the API server does with a new object of each kind: it fills in defaults, and validates.
func strategies() map[string]rest.RESTCreateStrategy {
	return map[string]rest.RESTCreateStrategy{
		"StatefulSet":             statefulset.Strategy,
		"Deployment":              deployment.Strategy,
		"HorizontalPodAutoscaler": horizontalpodautoscaler.Strategy,
		"ConfigMap":               configmap.Strategy,
		"Pod":                     pod.Strategy,
		"Secret":                  secret.Strategy,
		"Service":                 service.Strategy,
		"ServiceAccount":          serviceaccount.Strategy,
		"Ingress":                 ingress.Strategy,
		"NetworkPolicy":           networkpolicy.Strategy,
		"PodDisruptionBudget":     poddisruptionbudget.Strategy,
		"Role":                    role.Strategy,
		"RoleBinding":             rolebinding.Strategy,
	}
}

// custom returns an empty object of a kind that others add to Kubernetes, nil for other kinds.
func custom(kind string) any {
	switch kind {
	case "monitoring.coreos.com/v1 ServiceMonitor":
		return new(monitoring.ServiceMonitor)
	case "monitoring.coreos.com/v1 PodMonitor":
		return new(monitoring.PodMonitor)
	case "monitoring.coreos.com/v1 PrometheusRule":
		return new(monitoring.PrometheusRule)
	case "cert-manager.io/v1 Certificate":
		return new(certmanager.Certificate)
	case "cert-manager.io/v1 Issuer":
		return new(certmanager.Issuer)
	}
	return nil
}

// object is one document that the chart makes.
type object struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        metav1.ObjectMeta `json:"metadata"`
	raw             []byte
}

func (o object) String() string { return o.Kind + "/" + o.Metadata.Name }

// objects renders the chart and reads what all documents have in common.
func objects(t *testing.T, values map[string]any) []object {
	t.Helper()
	var all []object
	for _, d := range mustRender(t, values) {
		o := object{raw: []byte(d)}
		if err := yaml.Unmarshal(o.raw, &o); err != nil {
			t.Fatalf("%v\n%s", err, d)
		}
		all = append(all, o)
	}
	return all
}

// The API server takes every object: its own decoder, strict, its own defaults and its own validation.
func TestKubernetesTakesIt(t *testing.T) {
	codecs := serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict)
	for name, values := range valueSets(t) {
		t.Run(name, func(t *testing.T) {
			seen := make(map[string]bool)
			for _, o := range objects(t, values) {
				if seen[o.String()] {
					t.Errorf("%s is there twice", o)
				}
				seen[o.String()] = true
				if into := custom(o.APIVersion + " " + o.Kind); into != nil {
					if err := yaml.UnmarshalStrict(o.raw, into); err != nil {
						t.Errorf("%s: %v", o, err)
					}
					continue
				}
				strategy, known := strategies()[o.Kind]
				if !known {
					t.Errorf("%s %s: this test does not know the kind", o.APIVersion, o)
					continue
				}
				decoded, _, err := codecs.UniversalDeserializer().Decode(o.raw, nil, nil)
				if err != nil {
					t.Errorf("%s: %v", o, err)
					continue
				}
				if err := create(strategy, decoded, o.GroupVersionKind()); err != nil {
					t.Errorf("%s: %v", o, err)
				}
			}
		})
	}
}

// create does with a new object what the API server does before it stores it.
func create(strategy rest.RESTCreateStrategy, decoded runtime.Object, kind schema.GroupVersionKind) error {
	legacyscheme.Scheme.Default(decoded)
	if s, ok := decoded.(*corev1.Service); ok {
		// Given by allocators, which look at what there is in a cluster.
		if s.Spec.ClusterIP == corev1.ClusterIPNone {
			s.Spec.ClusterIPs = []string{corev1.ClusterIPNone}
		}
		if s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
			s.Spec.HealthCheckNodePort = 30000
		}
	}
	internal, err := legacyscheme.Scheme.ConvertToVersion(decoded, runtime.InternalGroupVersioner)
	if err != nil {
		return err
	}
	ctx := request.WithNamespace(request.NewContext(), namespace)
	ctx = request.WithRequestInfo(ctx, &request.RequestInfo{APIGroup: kind.Group, APIVersion: kind.Version, Namespace: namespace, Verb: "create"})
	metadata, err := meta.Accessor(internal)
	if err != nil {
		return err
	}
	rest.FillObjectMetaSystemFields(metadata)
	return rest.BeforeCreate(strategy, ctx, internal)
}

// podOf returns the pods that an object starts, nil if it starts none.
func podOf(t *testing.T, o object) *corev1.PodTemplateSpec {
	t.Helper()
	read := func(into any) {
		if err := yaml.UnmarshalStrict(o.raw, into); err != nil {
			t.Fatal(o, err)
		}
	}
	switch o.Kind {
	case "StatefulSet":
		var s appsv1.StatefulSet
		read(&s)
		return &s.Spec.Template
	case "Deployment":
		var d appsv1.Deployment
		read(&d)
		return &d.Spec.Template
	case "Pod":
		var p corev1.Pod
		read(&p)
		return &corev1.PodTemplateSpec{ObjectMeta: p.ObjectMeta, Spec: p.Spec}
	}
	return nil
}

// Every pod may run in a namespace with the strictest of Kubernetes' security standards.
func TestPodsAreRestricted(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range valueSets(t) {
		t.Run(name, func(t *testing.T) {
			for _, o := range objects(t, values) {
				p := podOf(t, o)
				if p == nil {
					continue
				}
				for _, c := range p.Spec.Containers {
					if s := c.SecurityContext; s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
						t.Errorf("%s: the file system of %s can be written", o, c.Name)
					}
					if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
						t.Errorf("%s: %s has no limit of memory or asks for no processor", o, c.Name)
					}
				}
				level := podsecurity.LevelVersion{Level: podsecurity.LevelRestricted, Version: podsecurity.LatestVersion()}
				for _, r := range evaluator.EvaluatePod(level, &p.ObjectMeta, &p.Spec) {
					if !r.Allowed {
						t.Errorf("%s: %s: %s", o, r.ForbiddenReason, r.ForbiddenDetail)
					}
				}
			}
		})
	}
}

// Whatever selects pods finds some, every port has somebody who listens, and every volume, secret and account is there.
func TestReferences(t *testing.T) {
	for name, values := range valueSets(t) {
		t.Run(name, func(t *testing.T) {
			all := objects(t, values)
			exists := make(map[string]bool)
			var pods []*corev1.PodTemplateSpec
			for _, o := range all {
				exists[o.String()] = true
				if p := podOf(t, o); p != nil {
					if p.Labels == nil {
						t.Fatalf("%s: pods without labels", o)
					}
					if o.Kind == "StatefulSet" {
						p.Labels["statefulset.kubernetes.io/pod-name"] = o.Metadata.Name + "-0"
					}
					pods = append(pods, p)
				}
			}
			for _, o := range all {
				switch o.Kind {
				case "Service":
					var s corev1.Service
					if err := yaml.Unmarshal(o.raw, &s); err != nil {
						t.Fatal(err)
					}
					if n := s.Spec.Selector["statefulset.kubernetes.io/pod-name"]; n != "" {
						s.Spec.Selector["statefulset.kubernetes.io/pod-name"] = n[:strings.LastIndex(n, "-")] + "-0"
					}
					found := selected(pods, s.Spec.Selector)
					if len(found) == 0 {
						t.Errorf("%s selects no pod", o)
					}
					for _, p := range found {
						for _, port := range s.Spec.Ports {
							if !listens(p, port.TargetPort.StrVal) {
								t.Errorf("%s: pod %v has no port %s", o, p.Labels, port.TargetPort.StrVal)
							}
						}
					}
				case "PodDisruptionBudget":
					var b struct {
						Spec struct{ Selector metav1.LabelSelector }
					}
					if err := yaml.Unmarshal(o.raw, &b); err != nil {
						t.Fatal(err)
					}
					if n := len(selected(pods, b.Spec.Selector.MatchLabels)); n != 1 {
						t.Errorf("%s selects %d kinds of pods", o, n)
					}
				}
				p := podOf(t, o)
				if p == nil {
					continue
				}
				volumes := make(map[string]bool)
				for _, v := range p.Spec.Volumes {
					volumes[v.Name] = true
					if v.ConfigMap != nil && !exists["ConfigMap/"+v.ConfigMap.Name] {
						t.Errorf("%s: no ConfigMap %s", o, v.ConfigMap.Name)
					}
				}
				if o.Kind == "StatefulSet" {
					volumes["data"] = true
				}
				for _, c := range p.Spec.Containers {
					for _, m := range c.VolumeMounts {
						if !volumes[m.Name] {
							t.Errorf("%s: no volume %s", o, m.Name)
						}
					}
				}
				if a := p.Spec.ServiceAccountName; a != "" && !exists["ServiceAccount/"+a] {
					t.Errorf("%s: no ServiceAccount %s", o, a)
				}
			}
		})
	}
}

func selected(pods []*corev1.PodTemplateSpec, labels map[string]string) (found []*corev1.PodTemplateSpec) {
	for _, p := range pods {
		matches := len(labels) > 0
		for k, v := range labels {
			matches = matches && p.Labels[k] == v
		}
		if matches {
			found = append(found, p)
		}
	}
	return found
}

func listens(p *corev1.PodTemplateSpec, port string) bool {
	return slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool {
		return slices.ContainsFunc(c.Ports, func(x corev1.ContainerPort) bool { return x.Name == port })
	})
}

// A pod gets the time that its own time-outs ask for before Kubernetes kills it.
func TestStopsHaveTheTime(t *testing.T) {
	values := valueSets(t)["least"]
	values["drain"] = map[string]any{"delaySeconds": 7, "timeoutSeconds": 90}
	for _, o := range objects(t, values) {
		if o.String() != "StatefulSet/esh3ar-core" {
			continue
		}
		grace := *podOf(t, o).Spec.TerminationGracePeriodSeconds
		if least := int64(7 + 90 + 90/2); grace <= least {
			t.Errorf("%s: %d s for a stop that may take %d s", o, grace, least)
		}
		return
	}
	t.Error("no core")
}

// With cert-manager, the certificate holds for each name under which nodes connect to each other.
func TestCertificateHoldsForTheNames(t *testing.T) {
	all := objects(t, valueSets(t)["elastic"])
	var names []string
	hosts := make(map[string]bool)
	for _, o := range all {
		switch o.String() {
		case "Certificate/esh3ar-cluster":
			var c certmanager.Certificate
			if err := yaml.UnmarshalStrict(o.raw, &c); err != nil {
				t.Fatal(err)
			}
			names = c.Spec.DNSNames
			usages := fmt.Sprint(c.Spec.Usages)
			if !strings.Contains(usages, "server auth") || !strings.Contains(usages, "client auth") {
				t.Errorf("usages %s", usages)
			}
		case "ConfigMap/esh3ar-config":
			for _, config := range configs(t, o) {
				for _, r := range append(config.Routes, config.NATSURL...) {
					_, address, scheme := strings.Cut(r, "://")
					if scheme {
						r = address
					}
					host, _, _ := strings.Cut(r, ":")
					hosts[host] = true
				}
			}
		}
	}
	if len(hosts) != 5 {
		t.Fatalf("the nodes are %v", slices.Sorted(maps.Keys(hosts)))
	}
	for host := range hosts {
		if !slices.ContainsFunc(names, func(n string) bool {
			suffix, wildcard := strings.CutPrefix(n, "*")
			return wildcard && strings.HasSuffix(host, suffix) && !strings.Contains(strings.TrimSuffix(host, suffix), ".")
		}) {
			t.Errorf("the certificate, for %v, does not hold for %s", names, host)
		}
	}
}

// nodeConfig is what this test looks at in a node's configuration.
type nodeConfig struct {
	Routes  []string `json:"routes"`
	NATSURL []string `json:"nats-url"`
}

func configs(t *testing.T, o object) map[string]nodeConfig {
	t.Helper()
	var m corev1.ConfigMap
	if err := yaml.UnmarshalStrict(o.raw, &m); err != nil {
		t.Fatal(err)
	}
	all := make(map[string]nodeConfig)
	for name, text := range m.Data {
		var c nodeConfig
		if err := yaml.Unmarshal([]byte(text), &c); err != nil {
			t.Fatal(name, err)
		}
		all[name] = c
	}
	return all
}
