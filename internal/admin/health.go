package admin

import "net/http"

// showHealth serves GET /v1/admin/health: how all nodes are. It does not need the store.
func (a *API) showHealth(w http.ResponseWriter, r *http.Request) error {
	if err := parameters(r, nil); err != nil {
		return err
	}
	return answer(w, http.StatusOK, a.overview())
}
