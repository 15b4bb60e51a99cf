package signalr_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/esh3artech/esh3ar/signalr"
	"github.com/esh3artech/esh3ar/signalr/client"
)

func TestTLS(t *testing.T) {
	server, err := signalr.NewServer(signalr.Options{})
	if err != nil {
		t.Fatal(err)
	}
	hub, err := server.NewHub(signalr.HubOptions{})
	if err != nil {
		t.Fatal(err)
	}
	echoHub(hub)
	mux := http.NewServeMux()
	hub.Mount(mux, "/hub")
	web := httptest.NewUnstartedServer(mux)
	web.EnableHTTP2 = true // for negotiation; WebSockets stay with HTTP/1.1
	web.StartTLS()
	t.Cleanup(func() {
		if err := server.Shutdown(testContext(t)); err != nil {
			t.Error(err)
		}
		web.CloseClientConnections()
		web.Close()
	})
	c := dial(t, web.URL+"/hub", client.Options{HTTPClient: web.Client()}, nil)
	var s string
	if err := c.Invoke(testContext(t), &s, "Echo", "x"); err != nil || s != "x" {
		t.Errorf("%q, %v", s, err)
	}
	// A certificate that is not trusted is refused.
	strange, err := client.New(web.URL+"/hub", client.Options{SkipNegotiation: true})
	if err != nil {
		t.Fatal(err)
	}
	defer strange.Close()
	if strange.Start(testContext(t)) == nil {
		t.Error("an unknown certificate was trusted")
	}
}
