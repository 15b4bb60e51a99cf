package client_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/esh3artech/esh3ar/client"
)

// A client may send to telephones in one country alone; its key is replaced, and both work for an hour.
func ExampleAdmin() {
	url, _, stop := platform()
	defer stop()
	ctx := context.Background()

	admin, err := client.NewAdmin(url, adminKey)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer admin.Close()
	tier, recipients := "gold", "+962*"
	shop, err := admin.CreateTenant(ctx, "shop", client.TenantSettings{Tier: &tier, Recipients: &recipients})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(shop.ID, shop.Tier, shop.Recipients)
	old, err := admin.CreateKey(ctx, shop.ID, client.KeySettings{Name: "till", Scopes: []string{client.ScopeSend}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fresh, err := admin.RotateKey(ctx, shop.ID, old.ID, time.Hour)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, key := range []client.APIKey{old, fresh} {
		c, err := client.New(url, key.Secret)
		if err != nil {
			fmt.Println(err)
			return
		}
		_, err = c.Send(ctx, client.Message{To: "+962791234567", Content: "Your order is on its way."})
		fmt.Println("to Jordan:", err)
		_, err = c.Send(ctx, client.Message{To: "+4930123456", Content: "Your order is on its way."})
		var p *client.Problem
		fmt.Println("elsewhere:", errors.As(err, &p) && p.Code == "recipient_not_allowed")
		c.Close()
	}
	var actions []string
	for e, err := range admin.Audit(ctx, client.AuditQuery{Client: shop.ID}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		actions = append(actions, e.Action)
	}
	fmt.Println(actions)
	// Output:
	// shop gold +962*
	// to Jordan: <nil>
	// elsewhere: true
	// to Jordan: <nil>
	// elsewhere: true
	// [key.rotate key.create client.create]
}
