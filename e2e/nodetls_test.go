package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority issues certificates.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // its own certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir(), key: newECKey(t)}
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of a test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.file = a.write("ca.crt", "CERTIFICATE", a.sign(a.cert, a.key))
	return a
}

func newECKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) sign(cert *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

func (a *authority) write(name, kind string, der []byte) string {
	a.t.Helper()
	file := filepath.Join(a.dir, name)
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return file
}

// args are the options of a node with a certificate of this authority for 127.0.0.1.
func (a *authority) args(name string) []string {
	a.t.Helper()
	key := newECKey(a.t)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return []string{
		"--cluster-cert", a.write(name+".crt", "CERTIFICATE", a.sign(&x509.Certificate{
			SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}, key)),
		"--cluster-key", a.write(name+".key", "PRIVATE KEY", der),
		"--cluster-ca", a.file,
	}
}

// Nodes that have certificates of one authority form a cluster, elastic ones too, and a message passes through it. Who
// has one of another authority, or none, gets in at neither port, though it knows the secret.
func TestNodesWithTLS(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	d := newDeployment(t, "--log-level", "warn")
	c := d.core(3)
	for i := range c.servers {
		c.launch(i, ours.args("core")...)
	}
	d.scheme = "tls"
	elastic := d.elastic("elastic0", ours.args("elastic")...)

	// Strangers, while the cluster comes up and when it is there.
	notTrusted := d.elastic("stranger0", theirs.args("stranger")...)
	bare := d.elastic("stranger1", "--cluster-ca", ours.file)
	mustBeReady(t, append([]*server{elastic}, c.servers...)...)
	notTrusted.refused("certificate signed by unknown authority")
	bare.refused("certificate required")
	// It trusts the core but shows a certificate of its own making.
	forged := theirs.args("forged")
	forged[len(forged)-1] = ours.file
	d.elastic("stranger2", forged...).refused("unknown certificate authority")
	d.scheme = "nats"
	plain := d.elastic("stranger3")
	plain.refused("")

	// At the port between the nodes a server of the name of one of the core, on another directory.
	port := freePorts(t, 1)[0]
	// At the usual level its log tells that only after half a minute, because the servers of a cluster start one by one.
	route := d.launch("stranger4", append([]string{"--log-level", "debug", "--cluster-listen", port, "--routes", port + "," + c.routes[0]}, theirs.args("route")...)...)
	route.await("the route to be refused", func() bool { return strings.Contains(route.tail(1<<20), "unknown authority") })
	if _, err := os.Stat(route.addr); err == nil {
		t.Error("a stranger's node serves")
	}
	route.kill()

	a := c.servers[0].api()
	got := elastic.receive(t, "bob")
	m := a.mustSend(t, outgoing{To: "bob", Content: "over TLS"})
	elastic.awaitStatus(elastic.api(), m.ID, "delivered")
	if content := <-got; content != "over TLS" {
		t.Errorf("received %q", content)
	}
	elastic.stop()
}
