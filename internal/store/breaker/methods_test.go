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

// TestEveryMethodIsHeldBack calls all that a store can do while the breaker is open: none of it reaches the
// store.
func TestEveryMethodIsHeldBack(t *testing.T) {
	s := breaker.New(&patient{err: errors.New("down")}, breaker.Options{Failures: 1})
	if _, err := s.Message(t.Context(), "c", [16]byte{}); err == nil {
		t.Fatal("the store answers")
	}
	v := reflect.ValueOf(s)
	for m := range reflect.TypeFor[store.Store]().Methods() {
		if m.Name == "Ping" || m.Name == "Close" {
			continue
		}
		t.Run(m.Name, func(t *testing.T) {
			method := v.MethodByName(m.Name)
			args := []reflect.Value{reflect.ValueOf(context.Background())}
			for i := 1; i < method.Type().NumIn(); i++ {
				args = append(args, reflect.Zero(method.Type().In(i)))
			}
			results := method.Call(args) // the store behind would panic
			if err, _ := results[len(results)-1].Interface().(error); !errors.Is(err, breaker.ErrOpen) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// whole is a store behind a breaker with what goes past it.
type whole struct {
	*breaker.Store
	store.Pruner
	store.RejectReader
}

func TestClientsConform(t *testing.T) {
	storetest.RunClients(t, func(t *testing.T) store.Store {
		s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), sqlite.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return whole{breaker.New(s, breaker.Options{}), s, s}
	})
}
