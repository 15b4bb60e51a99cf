package signalr_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/signalr"
	"github.com/esh3artech/esh3ar/signalr/msgpack"
)

// payload is an argument that encodes itself, as the hub of a messaging server
// would send it: the whole hub message has about 240 bytes.
type payload struct{ text string }

func newPayload() *payload { return &payload{strings.Repeat("x", 180)} }

func (p *payload) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"content":"`...)
	dst = append(dst, p.text...)
	return append(dst, `"}`...)
}

func (p *payload) AppendMsgpack(dst []byte) []byte {
	dst = msgpack.AppendMapHeader(dst, 1)
	dst = msgpack.AppendString(dst, "content")
	return msgpack.AppendString(dst, p.text)
}

// openConns opens n connections whose clients read and ignore everything.
func openConns(b *testing.B, f *fixture, life *lifeHub, n int, received *atomic.Int64) []*signalr.Conn {
	b.Helper()
	conns := make([]*signalr.Conn, n)
	var readers sync.WaitGroup
	for i := range n {
		s := dialGreeted(b, f.url, "json")
		_ = s.conn.SetDeadline(time.Time{})
		conns[i] = receive(b, life.connected, "OnConnected")
		readers.Go(func() { drain(s.br, s.conn, received) })
	}
	b.Cleanup(func() {
		for _, c := range conns {
			c.Close("", false)
		}
		for range conns {
			receive(b, life.disconnected, "OnDisconnected")
		}
		readers.Wait()
	})
	return conns
}

// drain reads to the end and counts bytes. It closes on a closing frame, which
// it recognises by the silence after it.
func drain(br *bufio.Reader, conn net.Conn, received *atomic.Int64) {
	buf := make([]byte, 64<<10)
	for {
		n, err := br.Read(buf)
		received.Add(int64(n))
		if err == io.EOF || err != nil || n >= 4 && string(buf[n-4:n]) == "\x88\x02\x03\xe8" {
			_ = conn.Close()
			return
		}
	}
}

// cpuTime is the CPU time of the process.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSend sends messages of 240 bytes to one connection, encoding
// included: one at a time, and a hundred at a time, which share frames. The
// client is another process. µs-cpu/msg is what this process spends on a
// message, the kernel's part of writing included.
func BenchmarkSend(b *testing.B) {
	for _, burst := range []int{1, 100} {
		b.Run(fmt.Sprintf("burst=%d", burst), func(b *testing.B) {
			life := newLifeHub()
			written := make(chan int, 1000)
			f := startServer(b, signalr.Options{Metrics: signalr.Metrics{
				Sent: func(messages, _ int) { written <- messages },
			}}, life.options(signalr.HubOptions{ClientTimeout: time.Hour, KeepAliveInterval: time.Hour}), nil)
			reader := startRole(b, roleEnv+"=reader", targetEnv+"="+f.url)
			defer reader.stop()
			conn := receive(b, life.connected, "OnConnected")
			<-written // the handshake
			p := newPayload()
			b.ReportAllocs()
			b.ResetTimer()
			before := cpuTime()
			for sent := 0; sent < b.N; {
				n := min(burst, b.N-sent)
				for range n {
					if err := conn.Send(signalr.NewMessage("ReceiveMessage", p)); err != nil {
						b.Fatal(err)
					}
				}
				sent += n
				for n > 0 {
					n -= <-written
				}
			}
			b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/1e3/float64(b.N), "µs-cpu/msg")
			b.StopTimer()
			conn.Close("", false)
			receive(b, life.disconnected, "OnDisconnected")
		})
	}
}

// BenchmarkBroadcast sends one message to 1,000 connections: one encoding for
// all of them. ms/Send is how long the sender is busy with it, which includes
// starting the goroutines that write.
func BenchmarkBroadcast(b *testing.B) {
	const n = 1000
	life := newLifeHub()
	f := start(b, life.options(signalr.HubOptions{ClientTimeout: time.Hour}), nil)
	var received atomic.Int64
	conns := openConns(b, f, life, n, &received)
	p := newPayload()
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime()
	var sending time.Duration
	for range b.N {
		begun := time.Now()
		if sent := f.hub.All().Send(signalr.NewMessage("ReceiveMessage", p)); sent != n {
			b.Fatalf("sent to %d", sent)
		}
		sending += time.Since(begun)
		for _, c := range conns {
			for q, _ := c.Queued(); q > 0; q, _ = c.Queued() {
				runtime.Gosched()
			}
		}
	}
	b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/1e3/float64(b.N)/n, "µs-cpu/msg")
	b.ReportMetric(float64(sending.Nanoseconds())/1e6/float64(b.N), "ms/Send")
}

// BenchmarkReceive receives an invocation with an array of ids.
func BenchmarkReceive(b *testing.B) {
	handled := make(chan struct{}, 1<<16)
	life := newLifeHub()
	f := start(b, life.options(signalr.HubOptions{}), func(h *signalr.Hub) {
		h.Handle("AcknowledgeMessages", signalr.Action1(func(_ context.Context, _ *signalr.Conn, ids []string) error {
			handled <- struct{}{}
			return nil
		}))
	})
	s := dialGreeted(b, f.url, "json")
	_ = s.conn.SetDeadline(time.Time{})
	receive(b, life.connected, "OnConnected")
	id := "0198f0a2-7c1e-7b6a-8c1e-0123456789ab"
	message := frame(0x80|opText, `{"type":1,"target":"AcknowledgeMessages","arguments":[["`+strings.Repeat(id+`","`, 9)+id+`"]]}`+"\x1e")
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		s.write(message)
		if i >= 100 {
			<-handled
		}
	}
	for range min(b.N, 100) {
		<-handled
	}
	b.StopTimer()
	_ = s.conn.Close()
	receive(b, life.disconnected, "OnDisconnected")
}
