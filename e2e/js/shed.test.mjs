// A node with too many devices has some reconnect: the official client does so by itself, elsewhere, over every transport and
// protocol, and misses nothing.
import { HttpTransportType, JsonHubProtocol } from "@microsoft/signalr";
import { MessagePackHubProtocol } from "@microsoft/signalr-protocol-msgpack";
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { becomes, call, Device, recipient, until } from "./support.mjs";

// write sends a message, again while the cluster is electing a leader, and returns its id.
async function write(to, content) {
  let answer;
  await until(async () => {
    answer = await call("POST", "/v1/messages", { to, content }, { "Idempotency-Key": `${to} ${content}` });
    return answer.status !== 503;
  }, () => `message to be accepted: ${JSON.stringify(answer)}`);
  assert.equal(answer.status, 202, JSON.stringify(answer.body));
  return answer.body.id;
}

const ways = [
  ["WebSockets with JSON", HttpTransportType.WebSockets, () => new JsonHubProtocol()],
  ["WebSockets with MessagePack", HttpTransportType.WebSockets, () => new MessagePackHubProtocol()],
  ["WebSockets with stateful reconnect", HttpTransportType.WebSockets, () => new JsonHubProtocol(), true],
  ["server-sent events with JSON", HttpTransportType.ServerSentEvents, () => new JsonHubProtocol()],
  ["long polling with JSON", HttpTransportType.LongPolling, () => new JsonHubProtocol()],
  ["long polling with MessagePack", HttpTransportType.LongPolling, () => new MessagePackHubProtocol()],
];

test("shed", { concurrency: true }, async (t) => {
  await Promise.all(ways.map(([name, transport, protocol, stateful]) => t.test(name, async (t) => {
    const to = recipient("alice");
    // The waits of the client itself.
    const device = new Device(to, { reconnect: [0, 2000, 10000, 30000], protocol: protocol(), stateful, options: { transport } });
    let moved = 0;
    device.connection.onreconnected(() => moved++);
    await device.connect(t);
    const sent = [];
    await until(async () => {
      sent.push(await write(to, `message ${sent.length}`));
      await pause(200);
      return moved > 0;
    }, "the device to be told to go elsewhere", 60_000);
    sent.push(await write(to, "after"));
    for (const id of sent) await becomes(id, "delivered");
    const first = [...new Set(device.received.map((m) => m.id))];
    // With stateful reconnect this client throws away what comes right after the handshake of a new connection, because it waits for the
    // old one to be resumed. It gets that again when it was not acknowledged for long enough, after what came later.
    if (stateful) first.sort(), sent.sort();
    assert.deepEqual(first, sent);
    assert.equal(moved, 1);
  })));
});
