package signalr

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"strconv"
)

// A negotiation is an id that a client got and has not used yet.
type negotiation struct {
	id, token string
	identity  Identity
	stateful  bool
}

// negotiationQueue holds the tokens of negotiations in the order in which they
// expire, which is that in which they were made. Used ones stay in it until
// their time.
type negotiationQueue struct {
	list []negotiationExpiry
	head int
}

type negotiationExpiry struct {
	token string
	at    int64 // server clock
}

func (q *negotiationQueue) push(token string, at int64) {
	q.list = append(q.list, negotiationExpiry{token, at})
}

func (q *negotiationQueue) popExpired(now int64) (token string, ok bool) {
	if q.head == len(q.list) || q.list[q.head].at > now {
		return "", false
	}
	token = q.list[q.head].token
	q.list[q.head] = negotiationExpiry{}
	q.head++
	switch {
	case q.head == len(q.list):
		q.list, q.head = nil, 0
	case q.head >= 64 && q.head > len(q.list)/2:
		k := copy(q.list, q.list[q.head:])
		clear(q.list[k:])
		q.list, q.head = q.list[:k], 0
	}
	return token, true
}

// negotiateResponse is the answer to a negotiation.
type negotiateResponse struct {
	NegotiateVersion    int                  `json:"negotiateVersion"`
	ConnectionID        string               `json:"connectionId,omitempty"`
	ConnectionToken     string               `json:"connectionToken,omitempty"`
	AvailableTransports []availableTransport `json:"availableTransports,omitempty"`
	UseStatefulReconn   bool                 `json:"useStatefulReconnect,omitempty"`
	URL                 string               `json:"url,omitempty"`
	AccessToken         string               `json:"accessToken,omitempty"`
	Error               string               `json:"error,omitempty"`
}

type availableTransport struct {
	Transport       string   `json:"transport"`
	TransferFormats []string `json:"transferFormats"`
}

// negotiate serves POST {hub}/negotiate.
func (h *Hub) negotiate(w http.ResponseWriter, r *http.Request) error {
	identity, err := h.authenticate(r)
	if err != nil {
		return err
	}
	if h.opts.Redirect != nil {
		to, err := h.opts.Redirect(r, identity)
		if err != nil {
			return err
		}
		if to.URL != "" {
			return writeNegotiation(w, &negotiateResponse{URL: to.URL, AccessToken: to.AccessToken})
		}
	}
	if err := h.admit(r); err != nil {
		return err
	}
	resp := &negotiateResponse{AvailableTransports: h.availableTransports()}
	if text := query(r, "negotiateVersion"); text != "" {
		version, err := strconv.Atoi(text)
		if err != nil || version < 0 {
			return writeNegotiation(w, &negotiateResponse{
				Error: "The value for negotiateVersion '" + text + "' is not a version.",
			})
		}
		resp.NegotiateVersion = min(version, 1)
	}
	n := &negotiation{id: rand.Text(), identity: identity}
	n.token = n.id
	if resp.NegotiateVersion == 1 {
		n.token = rand.Text()
		resp.ConnectionToken = n.token
	}
	resp.ConnectionID = n.id
	if asked, _ := strconv.ParseBool(query(r, "useStatefulReconnect")); asked && h.opts.StatefulReconnect {
		n.stateful, resp.UseStatefulReconn = true, true
	}
	if err := h.addNegotiation(n); err != nil {
		return err
	}
	return writeNegotiation(w, resp)
}

// admit says why a client gets no new connection, if it does not.
func (h *Hub) admit(r *http.Request) error {
	if h.server.isDraining() {
		return errDraining
	}
	if h.opts.Admit != nil {
		return h.opts.Admit(r)
	}
	return nil
}

func writeNegotiation(w http.ResponseWriter, resp *negotiateResponse) error {
	body, err := json.Marshal(resp)
	if err != nil {
		return err
	}
	noCache(w)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // a client that is gone is nobody's problem
	return nil
}

func (h *Hub) availableTransports() []availableTransport {
	formats := []string{"Text", "Binary"}
	var list []availableTransport
	for _, t := range []Transport{WebSockets, ServerSentEvents, LongPolling} {
		if h.opts.Transports&t == 0 {
			continue
		}
		offered := formats
		if t == ServerSentEvents {
			offered = formats[:1]
		}
		list = append(list, availableTransport{Transport: t.String(), TransferFormats: offered})
	}
	return list
}

func (h *Hub) addNegotiation(n *negotiation) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.negotiated) >= h.server.opts.MaxNegotiations {
		return errTooManyNegotiated
	}
	h.negotiated[n.token] = n
	h.expiries.push(n.token, h.server.now()+int64(h.opts.DisconnectTimeout))
	h.server.wheel.start()
	return nil
}

// takeNegotiation returns a negotiation, which can be used once.
func (h *Hub) takeNegotiation(token string) *negotiation {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.negotiated[token]
	delete(h.negotiated, token)
	return n
}

// expireNegotiations is called by the wheel.
func (h *Hub) expireNegotiations(now int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for token, ok := h.expiries.popExpired(now); ok; token, ok = h.expiries.popExpired(now) {
		delete(h.negotiated, token)
	}
}

func (h *Hub) dropNegotiations() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.negotiated)
	h.expiries = negotiationQueue{}
}
