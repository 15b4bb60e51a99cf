// Package client is the Go SDK of the Esh3ar messaging platform.
//
// A business system sends messages and follows what becomes of them with a [Client]:
//
//	c, err := client.New("https://esh3ar.example", os.Getenv("ESH3AR_API_KEY"))
//	…
//	receipt, err := c.Send(ctx, client.Message{To: "+962791234567", Content: "Your order is on its way."})
//
// When Send returns without an error the message is durable: it will not be lost. Sending is safe to
// repeat, and Send itself repeats it where that helps, because every message carries an idempotency
// key that stays the same over all attempts.
//
// A device receives messages with a [Listener], or a tool does so in a recipient's name with
// [Client.Listen]. Messages arrive at least once; a Listener drops the repeats it can recognise.
//
// The operator of a deployment manages business clients and their API keys with an [Admin].
//
// Events can also be posted to the business system: [Client.CreateWebhook], and package client/webhook for what
// receives them.
//
// Everything here is safe for concurrent use unless it says otherwise.
package client
