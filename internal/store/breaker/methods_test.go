package breaker_test

import (
	"context"
	"errors"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/breaker"
	"github.com/esh3artech/esh3ar/internal/store/sqlite"
	"github.com/esh3artech/esh3ar/internal/store/storetest"
)

// TestEveryMethodIsHeldBack calls all that a store can do while the breaker is open, and before there is a
// store: none of it reaches the store.
func TestEveryMethodIsHeldBack(t *testing.T) {
	opened := breaker.New(&patient{err: errors.New("down")}, breaker.Options{Failures: 1})
	if _, err := opened.Message(t.Context(), "c", [16]byte{}); err == nil {
		t.Fatal("the store answers")
	}
	for _, test := range []struct {
		s    *breaker.Store
		want error
	}{{opened, breaker.ErrOpen}, {breaker.New(nil, breaker.Options{}), breaker.ErrAbsent}} {
		for m := range reflect.TypeFor[store.Store]().Methods() {
			if m.Name == "Ping" || m.Name == "Close" {
				continue
			}
			t.Run(m.Name, func(t *testing.T) {
				method := reflect.ValueOf(test.s).MethodByName(m.Name)
				args := []reflect.Value{reflect.ValueOf(context.Background())}
				for i := 1; i < method.Type().NumIn(); i++ {
					args = append(args, reflect.Zero(method.Type().In(i)))
				}
				results := method.Call(args) // the store behind would panic
				if err, _ := results[len(results)-1].Interface().(error); !errors.Is(err, test.want) {
					t.Errorf("error %v", err)
				}
			})
		}
	}
}

// TestOpensLater gives a breaker its store while others already ask for it.
func TestOpensLater(t *testing.T) {
	s := breaker.New(nil, breaker.Options{})
	cause := errors.New("connection refused")
	s.Lacks(cause)
	if err := s.Ping(t.Context()); !errors.Is(err, breaker.ErrAbsent) || !errors.Is(err, cause) || s.Opened() {
		t.Errorf("ping without a store: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close without a store: %v", err)
	}
	found := &patient{err: store.ErrNotFound}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		for {
			if _, err := s.Message(t.Context(), "c", [16]byte{}); errors.Is(err, store.ErrNotFound) {
				return
			} else if !errors.Is(err, breaker.ErrAbsent) {
				t.Errorf("before it is opened: %v", err)
				return
			}
		}
	}()
	s.Open(found)
	<-answered
}

func TestClientsConform(t *testing.T) {
	storetest.RunClients(t, func(t *testing.T) store.Store {
		s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), sqlite.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return breaker.New(s, breaker.Options{})
	})
}
