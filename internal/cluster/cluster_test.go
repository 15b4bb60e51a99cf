package cluster_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/esh3artech/esh3ar/internal/cluster"
	"github.com/esh3artech/esh3ar/internal/cluster/clustertest"
)

// certificates makes a CA and a certificate for this machine from it.
func certificates(t *testing.T) *cluster.TLSFiles {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	caKey, ownKey := key(), key()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	own := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	ownDER, err := x509.CreateCertificate(rand.Reader, own, ca, &ownKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(ownKey)
	if err != nil {
		t.Fatal(err)
	}
	return &cluster.TLSFiles{
		Cert: write("cert.pem", "CERTIFICATE", ownDER),
		Key:  write("key.pem", "PRIVATE KEY", keyDER),
		CA:   write("ca.pem", "CERTIFICATE", caDER),
	}
}

// roundTrip sends something to itself.
func roundTrip(t *testing.T, nc *nats.Conn) {
	t.Helper()
	sub, err := nc.SubscribeSync("there")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Publish("there", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := sub.NextMsg(10 * time.Second); err != nil {
		t.Fatal(err)
	}
}

// TestSecured: servers find each other by TLS and a secret, and clients come in
// with a token and a certificate, not without, and outlive their server.
func TestSecured(t *testing.T) {
	t.Parallel()
	files := certificates(t)
	c := clustertest.Start(t, 3, func(_ int, o *cluster.Options) {
		o.Peers.TLS = files
		o.Clients = &cluster.Clients{Listen: "127.0.0.1:0", Token: "of the clients", TLS: files}
	})
	roundTrip(t, mustConnect(t, c.Server(0))) // in memory

	e := cluster.External{URLs: []string{c.Server(0).ClientAddr(), c.Server(1).ClientAddr()}, Token: "of the clients", TLS: files}
	moved := make(chan string, 10)
	nc, err := e.Connect(nats.DontRandomize(), nats.ReconnectHandler(func(nc *nats.Conn) { moved <- nc.ConnectedServerName() }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	roundTrip(t, nc)

	for name, change := range map[string]func(*cluster.External){
		"no token":       func(e *cluster.External) { e.Token = "" },
		"another token":  func(e *cluster.External) { e.Token = "of somebody" },
		"no certificate": func(e *cluster.External) { e.TLS = &cluster.TLSFiles{CA: files.CA} },
		"another CA":     func(e *cluster.External) { e.TLS = certificates(t) },
		"no server":      func(e *cluster.External) { e.URLs = nil },
	} {
		other := e
		change(&other)
		// Whoever still writes when the server hangs up may not hear why; the next try tells.
		var err error
		for range 5 {
			var nc *nats.Conn
			if nc, err = other.Connect(); err == nil {
				nc.Close()
				t.Errorf("%s: connected", name)
			}
			if name == "no server" || errors.Is(err, cluster.ErrRefused) {
				break
			}
		}
		if name != "no server" && !errors.Is(err, cluster.ErrRefused) {
			t.Errorf("%s: %v, which seems to pass by waiting", name, err)
		}
	}

	// A server without the secret gets no connection to the others.
	o := options(t.TempDir())
	o.Name = "intruder"
	o.Peers = &cluster.Peers{Cluster: "test", Listen: "127.0.0.1:0", Routes: []string{c.Server(0).PeerAddr()}, Secret: "a guess", TLS: files}
	s, err := cluster.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := s.Ready(ctx); err == nil {
		t.Error("a server with another secret has joined")
	}

	c.Stop(0)
	if name := <-moved; name != clustertest.Name(1) {
		t.Errorf("moved to %s", name)
	}
	roundTrip(t, nc)
}

// TestCertificatesAlone: with a CA clients need no token.
func TestCertificatesAlone(t *testing.T) {
	files := certificates(t)
	o := options(t.TempDir())
	o.Clients = &cluster.Clients{Listen: "127.0.0.1:0", TLS: files}
	s, err := cluster.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	roundTrip(t, mustConnect(t, s)) // in memory
	e := cluster.External{URLs: []string{s.ClientAddr()}, TLS: files}
	nc, err := e.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	roundTrip(t, nc)
	e.TLS = &cluster.TLSFiles{CA: files.CA}
	if nc, err := e.Connect(); err == nil {
		nc.Close()
		t.Error("connected without a certificate")
	}
}

func TestPeersAndClientsAreChecked(t *testing.T) {
	good := cluster.Peers{Cluster: "c", Listen: "127.0.0.1:0", Routes: []string{"127.0.0.1:1"}, Secret: "s"}
	for name, change := range map[string]func(*cluster.Options){
		"no cluster":       func(o *cluster.Options) { o.Peers.Cluster = "" },
		"spaces":           func(o *cluster.Options) { o.Peers.Cluster = "a b" },
		"no address":       func(o *cluster.Options) { o.Peers.Listen = "" },
		"no port":          func(o *cluster.Options) { o.Peers.Listen = "127.0.0.1" },
		"bad port":         func(o *cluster.Options) { o.Peers.Listen = "127.0.0.1:70000" },
		"no routes":        func(o *cluster.Options) { o.Peers.Routes = nil },
		"bad route":        func(o *cluster.Options) { o.Peers.Routes = []string{"host"} },
		"open to all":      func(o *cluster.Options) { o.Peers.Secret = "" },
		"no CA":            func(o *cluster.Options) { o.Peers.TLS = &cluster.TLSFiles{Cert: "c", Key: "k"} },
		"no such files":    func(o *cluster.Options) { o.Peers.TLS = &cluster.TLSFiles{Cert: "c", Key: "k", CA: "ca"} },
		"clients, open":    func(o *cluster.Options) { o.Clients = &cluster.Clients{Listen: "127.0.0.1:0"} },
		"clients, nowhere": func(o *cluster.Options) { o.Clients = &cluster.Clients{Token: "t"} },
	} {
		o := options(t.TempDir())
		peers := good
		o.Peers = &peers
		change(&o)
		if s, err := cluster.Start(o); err == nil {
			t.Errorf("%s: started, and closed again: %v", name, s.Close())
		}
	}
}

// TestPortInUse: a server that cannot listen says so, and at once.
func TestPortInUse(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for name, change := range map[string]func(*cluster.Options){
		"clients": func(o *cluster.Options) {
			o.Clients = &cluster.Clients{Listen: ln.Addr().String(), Token: "t"}
		},
		"peers": func(o *cluster.Options) {
			o.Peers = &cluster.Peers{Cluster: "c", Listen: ln.Addr().String(), Routes: []string{"127.0.0.1:1"}, Secret: "s"}
		},
	} {
		o := options(t.TempDir())
		change(&o)
		began := time.Now()
		s, err := cluster.Start(o)
		if err == nil {
			t.Errorf("%s: started, and closed again: %v", name, s.Close())
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: after %v: %v", name, took, err)
		}
	}
}

// leadersOf returns how many of the streams each server leads.
func leadersOf(t *testing.T, js jetstream.JetStream, streams []string) map[string]int {
	t.Helper()
	leads := make(map[string]int)
	for _, name := range streams {
		// A stream without a leader does not answer.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		s, err := js.Stream(ctx, name)
		cancel()
		if err != nil || s.CachedInfo().Cluster.Leader == "" {
			return nil
		}
		leads[s.CachedInfo().Cluster.Leader]++
	}
	return leads
}

func TestSpreadLeaders(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3, nil)
	nc := mustConnect(t, c.Server(0))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var streams []string
	for i := range 7 {
		name := fmt.Sprint("S", i)
		streams = append(streams, name)
		// The leader may not know of all servers yet.
		eventually(t, patience, name+" has three places", func() bool {
			_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Replicas: 3})
			return err == nil
		})
	}
	t.Log("placed by JetStream:", leadersOf(t, js, streams))
	// A server that comes back leads nothing.
	c.Kill(2)
	eventually(t, patience, "the streams have leaders without the dead", func() bool {
		leads := leadersOf(t, js, streams)
		return leads != nil && leads["n2"] == 0
	})
	c.Restart(2)
	c.Ready(2)
	eventually(t, patience, "the leaders are spread", func() bool {
		_, err := cluster.SpreadLeaders(ctx, nc, streams)
		leads := leadersOf(t, js, streams)
		return err == nil && slices.Equal([]int{leads["n0"] / 2, leads["n1"] / 2, leads["n2"] / 2}, []int{1, 1, 1})
	})
	t.Log("spread:", leadersOf(t, js, streams))
	if moved, err := cluster.SpreadLeaders(ctx, nc, streams); moved != 0 || err != nil {
		t.Errorf("%d of the spread leaders moved, error %v", moved, err)
	}
}
