// Takes webhooks and prints what became of our messages: npm run webhook
// It creates the endpoint with a server on this machine, which must run with --webhook-allow 127.0.0.0/8,
// and deletes it in the end. In production you create one once, for your public https address, and keep
// its secret where you keep your secrets: it is shown only then.
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { Webhook } from "standardwebhooks";
import { headers, refusal, url } from "./api.js";
import type { StatusEvent } from "./events.js";
import { Latest } from "./latest.js";

const largest = 1 << 20;

// read returns the body as it was sent: the signature is of these very bytes, not of the JSON in them.
async function read(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > largest) throw new Error("the body is too large");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

const latest = new Latest();
let verifier: Webhook | undefined;

const server = createServer((request, response) => {
  const take = async (): Promise<number> => {
    if (!verifier || request.method !== "POST") return 404;
    let event: StatusEvent;
    try {
      // Refuses what is not signed with our secret, and what is older than five minutes. While the secret
      // is rotated there are two signatures, of which one has to fit.
      event = verifier.verify(await read(request), request.headers as Record<string, string>) as StatusEvent;
    } catch (error) {
      console.error("refused:", error instanceof Error ? error.message : error);
      return 400;
    }
    // Events come at least once; those of one message in their order. Answer 2xx once it is safe with you: anything
    // else, or no answer in time, and it comes again, for days.
    if (event.type.startsWith("message.") && latest.news(event)) {
      console.log(event.time, event.data.id, event.data.status, event.data.reason ?? "");
    }
    return 204;
  };
  void take().then((status) => response.writeHead(status).end());
});

await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
const created = await fetch(`${url}/v1/webhooks`, {
  method: "POST",
  headers: { ...headers(), "Content-Type": "application/json" },
  body: JSON.stringify({ url: endpoint, description: "the example of a receiver" }),
});
if (!created.ok) throw await refusal(created);
const { id, secret } = (await created.json()) as { id: string; secret: string };
verifier = new Webhook(secret);
console.log("listening on", endpoint);

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, async () => {
    await fetch(`${url}/v1/webhooks/${id}`, { method: "DELETE", headers: headers() });
    process.exit();
  });
}
