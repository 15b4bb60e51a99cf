package autoscale

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"regexp"
	"strings"
	"time"
)

// KubernetesOptions configures Kubernetes.
type KubernetesOptions struct {
	// Server is the base URL of the API server. Required.
	Server string

	// CAFile and TokenFile are of the service account: the authority of the API server's certificate, and the token, which is
	// read again for every request because it is renewed. Required.
	CAFile, TokenFile string

	// Namespace, Kind ("statefulset" or "deployment") and Object name what is scaled. Required.
	Namespace, Kind, Object string

	// Timeout bounds a request. Required.
	Timeout time.Duration
}

// ServiceAccountDir is where a pod finds its service account.
const ServiceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// InCluster fills in, where nothing is set, what a pod is told by its environment: the API server, and the service account
// with its namespace.
func (o KubernetesOptions) InCluster() (KubernetesOptions, error) {
	if o.Server == "" {
		host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
		if host == "" || port == "" {
			return o, errors.New("autoscale: not in a pod of Kubernetes: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")
		}
		o.Server = "https://" + net.JoinHostPort(host, port)
	}
	if o.CAFile == "" {
		o.CAFile = path.Join(ServiceAccountDir, "ca.crt")
	}
	if o.TokenFile == "" {
		o.TokenFile = path.Join(ServiceAccountDir, "token")
	}
	if o.Namespace == "" {
		raw, err := os.ReadFile(path.Join(ServiceAccountDir, "namespace"))
		if err != nil {
			return o, fmt.Errorf("autoscale: the service account's namespace: %w", err)
		}
		o.Namespace = strings.TrimSpace(string(raw))
	}
	return o, nil
}

// Kubernetes is a provider that changes the number of replicas of a StatefulSet or Deployment by its scale subresource.
// Which pod goes is for Kubernetes to choose: of a StatefulSet the one with the highest ordinal.
type Kubernetes struct {
	opts   KubernetesOptions
	url    string
	client *http.Client
}

// objectName is the form of names in Kubernetes, as they stand in paths.
var objectName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)

// NewKubernetes checks the options and reads the authority's certificate. It asks for nothing yet.
func NewKubernetes(o KubernetesOptions) (*Kubernetes, error) {
	server, err := url.Parse(o.Server)
	if err != nil || server.Scheme != "https" || server.Host == "" {
		return nil, fmt.Errorf("autoscale: API server %q: want https://host:port", o.Server)
	}
	if !objectName.MatchString(o.Namespace) || !objectName.MatchString(o.Object) {
		return nil, fmt.Errorf("autoscale: %q in the namespace %q is no name of Kubernetes's", o.Object, o.Namespace)
	}
	if o.Kind != "statefulset" && o.Kind != "deployment" {
		return nil, fmt.Errorf("autoscale: kind %q: want statefulset or deployment", o.Kind)
	}
	if o.Timeout <= 0 {
		return nil, errors.New("autoscale: requests need a time-out")
	}
	pem, err := os.ReadFile(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("autoscale: the API server's authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("autoscale: no certificate in %s", o.CAFile)
	}
	return &Kubernetes{
		opts: o,
		url:  server.JoinPath("apis/apps/v1/namespaces", o.Namespace, o.Kind+"s", o.Object, "scale").String(),
		client: &http.Client{
			Timeout: o.Timeout,
			Transport: &http.Transport{
				TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool},
				TLSHandshakeTimeout: o.Timeout, // a request that is given up does not end it
				DisableKeepAlives:   true,      // two requests every few minutes
			},
			// The token is for the API server alone.
			CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("it redirects") },
		},
	}, nil
}

// Name implements Provider.
func (k *Kubernetes) Name() string { return "kubernetes" }

// Inventory implements Provider.
func (k *Kubernetes) Inventory(context.Context) (Inventory, error) {
	return Inventory{Chooses: true}, nil
}

// scale is the subresource, as far as it matters.
type scale struct {
	APIVersion string `json:"apiVersion,omitempty"`
	Kind       string `json:"kind,omitempty"`
	Metadata   struct {
		// ResourceVersion has a change refused if there was another since it was read.
		ResourceVersion string `json:"resourceVersion,omitempty"`
	} `json:"metadata"`
	Spec struct {
		Replicas int `json:"replicas"`
	} `json:"spec"`
}

// Scale implements Provider. Replicas that are wanted already and have no node yet count for what is to be added.
func (k *Kubernetes) Scale(ctx context.Context, o Order) error {
	var s scale
	if err := k.call(ctx, http.MethodGet, nil, &s); err != nil {
		return err
	}
	have := s.Spec.Replicas
	switch {
	case o.Add > 0:
		s.Spec.Replicas = max(have, min(have+o.Add, o.Wanted))
	case have == 0:
		return fmt.Errorf("autoscale: %s %s has no replicas to remove", k.opts.Kind, k.opts.Object)
	default:
		s.Spec.Replicas = have - 1
	}
	if s.Spec.Replicas == have {
		return fmt.Errorf("autoscale: %s %s wants %d replicas already, and not all of them have come", k.opts.Kind, k.opts.Object, have)
	}
	patch := scale{Metadata: s.Metadata, Spec: s.Spec}
	body, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	wanted := s.Spec.Replicas
	if err := k.call(ctx, http.MethodPatch, body, &s); err != nil {
		return err
	}
	if s.Spec.Replicas != wanted {
		return fmt.Errorf("autoscale: %s %s: %d replicas were asked for, and it wants %d", k.opts.Kind, k.opts.Object, wanted, s.Spec.Replicas)
	}
	return nil
}

// mostAnswer bounds an answer of the API server.
const mostAnswer = 1 << 20

// call makes a request of the subresource.
func (k *Kubernetes) call(ctx context.Context, method string, body []byte, answer *scale) error {
	token, err := os.ReadFile(k.opts.TokenFile)
	if err != nil {
		return fmt.Errorf("autoscale: the service account's token: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, method, k.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := k.client.Do(req)
	if err != nil {
		return fmt.Errorf("autoscale: Kubernetes: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer))
	if err != nil {
		return fmt.Errorf("autoscale: Kubernetes: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var status struct {
			Message string `json:"message"`
		}
		_ = json.Unmarshal(raw, &status) // its text is a help and no more
		return fmt.Errorf("autoscale: Kubernetes refuses to %s the scale of %s %s: %s %s", strings.ToLower(method), k.opts.Kind, k.opts.Object, resp.Status, status.Message)
	}
	*answer = scale{}
	if err := json.Unmarshal(raw, answer); err != nil {
		return fmt.Errorf("autoscale: Kubernetes: %w", err)
	}
	if answer.Kind != "Scale" {
		return fmt.Errorf("autoscale: Kubernetes answers with a %q rather than a Scale", answer.Kind)
	}
	return nil
}
