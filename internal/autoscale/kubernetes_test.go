package autoscale

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// apiServer speaks the part of Kubernetes's API that is about the scale of one object, over TLS, with its rules: the token,
// the kind of patch, and the version that a change refers to.
type apiServer struct {
	*httptest.Server
	t        *testing.T
	object   string // path of its scale
	token    string
	replicas int
	version  int
	patches  int

	before func(r *http.Request) (status int, body string) // answers in its place if the status is not 0
}

func startAPIServer(t *testing.T, object string) *apiServer {
	s := &apiServer{t: t, object: object, token: "the first token", replicas: 2, version: 41}
	s.Server = httptest.NewTLSServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	refuse := func(status int, message string) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":%q,"code":%d}`, message, status)
	}
	if s.before != nil {
		if status, body := s.before(r); status != 0 {
			w.Header().Set("Location", "https://elsewhere.example/")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
			return
		}
	}
	switch {
	case r.Header.Get("Authorization") != "Bearer "+s.token:
		refuse(http.StatusUnauthorized, "Unauthorized")
		return
	case r.URL.Path != s.object:
		refuse(http.StatusNotFound, "the server could not find the requested resource")
		return
	case r.Method == http.MethodGet:
	case r.Method == http.MethodPatch && r.Header.Get("Content-Type") == "application/merge-patch+json":
		var patch struct {
			Metadata struct {
				ResourceVersion string `json:"resourceVersion"`
			} `json:"metadata"`
			Spec struct {
				Replicas *int `json:"replicas"`
			} `json:"spec"`
		}
		if err := json.NewDecoder(r.Body).Decode(&patch); err != nil || patch.Spec.Replicas == nil || *patch.Spec.Replicas < 0 {
			refuse(http.StatusUnprocessableEntity, "invalid")
			return
		}
		if v := patch.Metadata.ResourceVersion; v != "" && v != strconv.Itoa(s.version) {
			refuse(http.StatusConflict, "the object has been modified; please apply your changes to the latest version and try again")
			return
		}
		s.replicas = *patch.Spec.Replicas
		s.version++
		s.patches++
	default:
		refuse(http.StatusMethodNotAllowed, "not allowed")
		return
	}
	fmt.Fprintf(w, `{"kind":"Scale","apiVersion":"autoscaling/v1","metadata":{"name":"esh3ar-elastic","namespace":"messaging","uid":"x","resourceVersion":"%d"},`+
		`"spec":{"replicas":%d},"status":{"replicas":%d,"selector":"app=esh3ar"}}`, s.version, s.replicas, s.replicas)
}

// account writes a service account's files, as a pod has them.
func (s *apiServer) account() (ca, token string) {
	s.t.Helper()
	dir := s.t.TempDir()
	ca, token = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	for file, text := range map[string]string{
		ca:    string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})),
		token: s.token + "\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	return ca, token
}

func (s *apiServer) options() KubernetesOptions {
	ca, token := s.account()
	return KubernetesOptions{Server: s.URL, CAFile: ca, TokenFile: token, Namespace: "messaging", Kind: "statefulset", Object: "esh3ar-elastic", Timeout: patience}
}

func kubernetes(t *testing.T, o KubernetesOptions) *Kubernetes {
	t.Helper()
	k, err := NewKubernetes(o)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKubernetes(t *testing.T) {
	for _, kind := range []string{"statefulset", "deployment"} {
		s := startAPIServer(t, "/apis/apps/v1/namespaces/messaging/"+kind+"s/esh3ar-elastic/scale")
		o := s.options()
		o.Kind = kind
		k := kubernetes(t, o)
		if inv, err := k.Inventory(t.Context()); !inv.Chooses || err != nil {
			t.Errorf("%+v, %v", inv, err)
		}
		for _, step := range []struct {
			name  string
			order Order
			want  int
			fails bool
		}{
			{"two more", Order{Wanted: 4, Add: 2}, 4, false},
			{"one less", Order{Wanted: 3}, 3, false},
			{"beside nodes of others", Order{Wanted: 9, Add: 2}, 5, false},
			{"some asked for have not come", Order{Wanted: 6, Add: 3}, 6, false},
			{"all asked for have not come", Order{Wanted: 5, Add: 2}, 6, true},
		} {
			if err := k.Scale(t.Context(), step.order); (err != nil) != step.fails || s.replicas != step.want {
				t.Errorf("%s: %d replicas, want %d; %v", step.name, s.replicas, step.want, err)
			}
		}
		// The token is renewed while the process runs.
		s.token = "the second token"
		if err := k.Scale(t.Context(), Order{Wanted: 7, Add: 1}); err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("an old token: %v", err)
		}
		if err := os.WriteFile(o.TokenFile, []byte(s.token), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := k.Scale(t.Context(), Order{Wanted: 7, Add: 1}); err != nil || s.replicas != 7 {
			t.Errorf("a new token: %d replicas, %v", s.replicas, err)
		}
		s.replicas = 0
		if err := k.Scale(t.Context(), Order{Wanted: 0}); err == nil || s.replicas != 0 {
			t.Errorf("less than none: %v", err)
		}
	}
}

func TestKubernetesFailures(t *testing.T) {
	s := startAPIServer(t, "/apis/apps/v1/namespaces/messaging/statefulsets/esh3ar-elastic/scale")
	for name, test := range map[string]struct {
		before func(r *http.Request) (int, string)
		change func(o *KubernetesOptions)
		want   string
	}{
		"changed meanwhile": {before: func(r *http.Request) (int, string) {
			if r.Method == http.MethodPatch {
				s.version++
			}
			return 0, ""
		}, want: "modified"},
		"forbidden": {before: func(*http.Request) (int, string) {
			return http.StatusForbidden, `{"message":"cannot patch resource \"statefulsets/scale\""}`
		}, want: "cannot patch"},
		"elsewhere":    {before: func(*http.Request) (int, string) { return http.StatusFound, "" }, want: "redirects"},
		"nonsense":     {before: func(*http.Request) (int, string) { return http.StatusOK, "<html>" }, want: "invalid character"},
		"no scale":     {before: func(*http.Request) (int, string) { return http.StatusOK, `{"kind":"Status"}` }, want: "rather than a Scale"},
		"too long":     {before: func(*http.Request) (int, string) { return http.StatusOK, strings.Repeat(" ", 2*mostAnswer) }, want: "JSON"},
		"another name": {change: func(o *KubernetesOptions) { o.Object = "nobody" }, want: "404"},
		"no token":     {change: func(o *KubernetesOptions) { o.TokenFile += ".none" }, want: "no such file"},
		"a stranger":   {change: func(o *KubernetesOptions) { o.CAFile = stranger(t) }, want: "certificate"},
	} {
		s.before = test.before
		o := s.options()
		if test.change != nil {
			test.change(&o)
		}
		patches, replicas := s.patches, s.replicas
		err := kubernetes(t, o).Scale(t.Context(), Order{Wanted: 9, Add: 1})
		if err == nil || !strings.Contains(err.Error(), test.want) || s.patches != patches || s.replicas != replicas {
			t.Errorf("%s: %v, want %q in it", name, err, test.want)
		}
	}
	s.before = nil
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := kubernetes(t, s.options()).Scale(ctx, Order{Wanted: 9, Add: 1}); err == nil {
		t.Error("it goes on though nobody waits for it")
	}
}

// stranger returns a file with the certificate of an authority that has not signed the test server's.
func stranger(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}, &x509.Certificate{SerialNumber: big.NewInt(1)}, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestKubernetesOptionsAreChecked(t *testing.T) {
	s := startAPIServer(t, "/")
	for name, change := range map[string]func(o *KubernetesOptions){
		"plain":        func(o *KubernetesOptions) { o.Server = "http://127.0.0.1" },
		"no server":    func(o *KubernetesOptions) { o.Server = "" },
		"namespace":    func(o *KubernetesOptions) { o.Namespace = "a/b" },
		"object":       func(o *KubernetesOptions) { o.Object = "../pods" },
		"kind":         func(o *KubernetesOptions) { o.Kind = "pod" },
		"time":         func(o *KubernetesOptions) { o.Timeout = 0 },
		"authority":    func(o *KubernetesOptions) { o.CAFile = "/nowhere" },
		"no authority": func(o *KubernetesOptions) { o.CAFile = o.TokenFile },
	} {
		o := s.options()
		change(&o)
		if _, err := NewKubernetes(o); err == nil {
			t.Errorf("%s: passed", name)
		}
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "6443")
	o, err := KubernetesOptions{Namespace: "messaging"}.InCluster()
	if err != nil || o.Server != "https://10.0.0.1:6443" || o.TokenFile != ServiceAccountDir+"/token" || o.CAFile != ServiceAccountDir+"/ca.crt" {
		t.Errorf("%+v, %v", o, err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := (KubernetesOptions{Namespace: "messaging"}).InCluster(); err == nil {
		t.Error("outside of a cluster it passes")
	}
}
