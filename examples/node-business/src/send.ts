// Sends one message: npm run send -- RECIPIENT TEXT [KEY]
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { backoff, headers, refusal, Refused, url } from "./api.js";

interface Message {
  to: string;
  content: string;
  type?: string;
  ttl?: number; // in seconds
}

interface Receipt {
  id: string;
  status: string;
  to: string; // normalised
}

const attempts = 8;

// send returns when the message is on the server's disk. Whatever goes wrong on the way, it may be sent
// again under the same key without becoming a second message. Best is a key that you have already, such
// as the number of the order and what is told of it, because it survives a crash of this program too.
async function send(message: Message, key: string): Promise<Receipt> {
  for (let attempt = 1; ; attempt++) {
    let wait = backoff(attempt);
    try {
      const response = await fetch(`${url}/v1/messages`, {
        method: "POST",
        headers: { ...headers(), "Content-Type": "application/json", "Idempotency-Key": key },
        body: JSON.stringify(message),
        signal: AbortSignal.timeout(10_000),
      });
      if (response.ok) return (await response.json()) as Receipt;
      const refused = await refusal(response);
      if (refused.problem.permanent || attempt === attempts) throw refused;
      wait += 1000 * Number(response.headers.get("Retry-After") ?? 0);
    } catch (error) {
      // Without an answer nobody knows whether the message was accepted. The key makes it not matter.
      if (error instanceof Refused || attempt === attempts) throw error;
    }
    await sleep(wait);
  }
}

const [to, content, key = randomUUID()] = process.argv.slice(2);
if (!to || !content) {
  console.error("usage: npm run send -- RECIPIENT TEXT [KEY]");
  process.exit(2);
}
const receipt = await send({ to, content }, key);
console.log(receipt.status, receipt.id, "to", receipt.to);
