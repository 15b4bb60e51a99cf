// What the tests share: the API as a business system calls it, and devices on the official client.
import { HttpTransportType, HubConnectionBuilder, LogLevel } from "@microsoft/signalr";
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";

export const url = process.env.E2E_URL;
const key = process.env.E2E_KEY;
const control = process.env.E2E_CONTROL;

// limit bounds every wait. Reaching it is a failure.
const limit = 20_000;

// call makes one API request and returns the answer with its decoded body.
export async function call(method, path, body, headers = {}) {
  const response = await fetch(url + path, {
    method,
    headers: { Authorization: `Bearer ${key}`, "Content-Type": "application/json", ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  return { status: response.status, headers: response.headers, body: await response.json() };
}

// send posts a message and returns its id once it is accepted.
export async function send(message, headers) {
  const answer = await call("POST", "/v1/messages", message, headers);
  assert.equal(answer.status, 202, JSON.stringify(answer.body));
  assert.equal(answer.body.status, "accepted");
  assert.equal(answer.headers.get("location"), `/v1/messages/${answer.body.id}`);
  return answer.body.id;
}

export async function message(id) {
  const answer = await call("GET", `/v1/messages/${id}`);
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  return answer.body;
}

// becomes waits until the message has that status and returns it.
export async function becomes(id, status) {
  let last;
  await until(async () => (last = await message(id)).status === status, () => `message ${id} to be ${status}: ${JSON.stringify(last)}`);
  return last;
}

// until waits until the condition holds.
export async function until(condition, what, within = limit) {
  const deadline = Date.now() + within;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`waited in vain for ${typeof what === "function" ? what() : what}`);
    await pause(10);
  }
}

// recipient returns a name that no other test uses.
export const recipient = (name) => `${name}-${randomUUID()}`;

// mint returns a device token for a recipient.
export async function mint(sub, ttl = 600) {
  const answer = await call("POST", "/v1/recipient-tokens", { sub, ttl });
  assert.ok(answer.status === 200 || answer.status === 201, JSON.stringify(answer));
  assert.ok(answer.body.token);
  return answer.body.token;
}

// isSentElsewhere negotiates as a device whose acknowledgements are results, and checks that the answer is another node's hub, with
// what the device said of itself.
export async function isSentElsewhere() {
  const token = await mint(recipient("alice"));
  const answer = await fetch(`${url}/hubs/mobile/negotiate?negotiateVersion=1&ack=result`, { method: "POST", headers: { Authorization: `Bearer ${token}` } });
  assert.equal(answer.status, 200);
  const body = await answer.json();
  assert.match(body.url, /^http:\/\/127\.0\.0\.1:\d+\/hubs\/mobile\?ack=result&moved=1$/);
  assert.notEqual(new URL(body.url).origin, new URL(url).origin);
  assert.equal(body.accessToken, token);
  assert.ok(!body.connectionToken && !body.availableTransports);
}

// restart stops the server with that signal and starts it again over the same data and address.
export async function restart(signal) {
  const response = await fetch(`${control}/restart?signal=${signal}`, { method: "POST" });
  assert.equal(response.status, 200, await response.text());
}

// Device is a phone of a recipient. It acknowledges what it receives unless told otherwise.
export class Device {
  received = [];
  acknowledge = true;
  #waiting = [];

  // result, if set, is what the handler returns, for connections with ?ack=result.
  result = undefined;

  constructor(to, { token, options = {}, reconnect, protocol, stateful = false, query = "" } = {}) {
    const builder = new HubConnectionBuilder()
      .withUrl(`${url}/hubs/mobile${query}`, {
        accessTokenFactory: () => token ?? mint(to),
        transport: HttpTransportType.WebSockets,
        ...options,
      })
      .configureLogging(LogLevel.None);
    if (protocol) builder.withHubProtocol(protocol);
    if (stateful) builder.withStatefulReconnect();
    if (reconnect) builder.withAutomaticReconnect(reconnect);
    this.connection = builder.build();
    this.connection.on("ReceiveMessage", (m) => {
      this.received.push(m);
      if (this.acknowledge) this.connection.send("AcknowledgeMessage", m.id).catch(() => {});
      this.#waiting = this.#waiting.filter((wake) => !wake());
      return this.result?.();
    });
  }

  // connect starts the connection and ends it with the test.
  async connect(t) {
    t?.after(() => this.connection.stop());
    await this.connection.start();
    return this;
  }

  // has waits until so many messages were received and returns all.
  async has(count) {
    await new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`received ${this.received.length} of ${count} messages`)), limit);
      const wake = () => {
        if (this.received.length < count) return false;
        clearTimeout(timer);
        resolve();
        return true;
      };
      if (!wake()) this.#waiting.push(wake);
    });
    return this.received;
  }
}
