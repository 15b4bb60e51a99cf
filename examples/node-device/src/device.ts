// A device: npm start -- RECIPIENT
// It prints its messages, each once, and acknowledges them.
import { setTimeout as sleep } from "node:timers/promises";
import { HubConnectionBuilder, LogLevel } from "@microsoft/signalr";

interface Message {
  id: string;
  from: string;
  content?: string; // either this
  data?: unknown; // or this
  type?: string;
  metadata?: Record<string, string>;
  accepted_at: string;
  attempt: number;
}

const url = process.env["ESH3AR_URL"] ?? "http://127.0.0.1:8080";
const recipient = process.argv[2];

// token is asked for with every connection, so that it may be short-lived. A real device asks a backend
// of yours, which knows its user and holds the API key; a device never holds one.
async function token(): Promise<string> {
  const given = process.env["ESH3AR_DEVICE_TOKEN"];
  if (given) return given;
  const response = await fetch(`${url}/v1/recipient-tokens`, {
    method: "POST",
    headers: { Authorization: `Bearer ${process.env["ESH3AR_API_KEY"] ?? ""}`, "Content-Type": "application/json" },
    body: JSON.stringify({ sub: recipient, ttl: 3600 }),
  });
  if (!response.ok) throw new Error(`no token: ${response.status} ${await response.text()}`);
  return ((await response.json()) as { token: string }).token;
}

// Messages come at least once; the ids of the latest are kept to drop repeats by. An app keeps them
// where it keeps the messages, so that they survive its restart.
const seen = new Set<string>();
const remembered = 1000;

const connection = new HubConnectionBuilder()
  .withUrl(`${url}/hubs/mobile`, { accessTokenFactory: token })
  // A broken socket is replaced at once where the server still knows the connection.
  .withStatefulReconnect()
  // For ever, after random waits: devices that lost a server together must not come back together.
  .withAutomaticReconnect({
    nextRetryDelayInMilliseconds: ({ previousRetryCount: n }) => Math.random() * Math.min(30_000, 500 * 2 ** n),
  })
  .configureLogging(LogLevel.None)
  .build();

connection.on("ReceiveMessage", async (message: Message) => {
  if (!seen.has(message.id)) {
    console.log(`${message.id} from ${message.from}: ${message.content ?? JSON.stringify(message.data)}`);
    seen.add(message.id);
    for (const oldest of seen) {
      if (seen.size <= remembered) break;
      seen.delete(oldest);
    }
  }
  // Only after it was taken in. A repeat is acknowledged as well: what was lost may have been the first
  // acknowledgement. If this one is lost, the message comes again.
  await connection.send("AcknowledgeMessage", message.id).catch(() => undefined);
});
connection.onreconnecting((error) => console.log("reconnecting:", error?.message));
connection.onreconnected(() => console.log("connected"));

if (!recipient && !process.env["ESH3AR_DEVICE_TOKEN"]) {
  console.error("usage: npm start -- RECIPIENT (with ESH3AR_API_KEY), or ESH3AR_DEVICE_TOKEN=… npm start");
  process.exit(2);
}
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => void connection.stop().then(() => process.exit()));
}

// connect makes the first connection, and one after the server closed for good, such as for a token that
// has expired. What breaks by itself the client mends by itself.
async function connect(): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    try {
      await connection.start();
      console.log("connected");
      return;
    } catch (error) {
      console.error("not connected:", error instanceof Error ? error.message : error);
      await sleep(Math.random() * Math.min(30_000, 500 * 2 ** attempt));
    }
  }
}
connection.onclose((error) => {
  if (!error) return; // stop was called
  console.log("closed:", error.message);
  void connect();
});
await connect();
