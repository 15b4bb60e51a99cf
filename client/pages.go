package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/url"
)

// next is the end of a page.
type next struct {
	Next string `json:"next_cursor"`
}

// pages iterates over what the pages of a listing hold, and fetches page after page as the loop goes on. What
// names the listing in errors; of returns what a page P holds and the cursor of the following one.
func pages[P, T any](ctx context.Context, c *Client, what, path string, query url.Values, of func(*P) ([]T, string)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for cursor := ""; ; {
			v := maps.Clone(query)
			if cursor != "" {
				v.Set("cursor", cursor)
			}
			page := new(P)
			_, _, err := c.call(ctx, request{method: http.MethodGet, path: path, query: v, limit: maxPage}, page)
			list, following := of(page)
			if err == nil {
				err = forward(cursor, following)
			}
			if err != nil {
				var none T
				yield(none, fmt.Errorf("client: listing %s: %w", what, err))
				return
			}
			for _, one := range list {
				if !yield(one, nil) {
					return
				}
			}
			if following == "" {
				return
			}
			cursor = following
		}
	}
}

// forward returns an error if the next page is the one just fetched.
func forward(cursor, next string) error {
	if next != "" && next == cursor {
		return errors.New("the server repeats a page")
	}
	return nil
}
