package admin_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/esh3artech/esh3ar/internal/admin"
	"github.com/esh3artech/esh3ar/internal/health"
)

// The overview is told as it is, without the store.
func TestHealth(t *testing.T) {
	o := health.Overview{Status: health.Degraded, Shards: 4, Problems: []health.Problem{{Check: "shards", Status: health.Degraded}}}
	api := admin.New(admin.Options{Overview: func() health.Overview { return o }})
	for _, r := range api.Routes() {
		if r.Pattern != "/v1/admin/health" {
			continue
		}
		w := httptest.NewRecorder()
		if err := r.Serve(w, httptest.NewRequest(http.MethodGet, r.Pattern, nil)); err != nil {
			t.Fatal(err)
		}
		if body := w.Body.String(); w.Code != http.StatusOK || !strings.HasPrefix(body, `{"status":"degraded",`) || !strings.Contains(body, `"check":"shards"`) {
			t.Errorf("%d %s", w.Code, body)
		}
		if err := r.Serve(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, r.Pattern+"?x=1", nil)); err == nil {
			t.Error("a parameter that there is not is taken")
		}
		return
	}
	t.Error("there is no such route")
}
