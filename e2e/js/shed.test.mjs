// A node with too many devices has some reconnect: the official client does so by itself, elsewhere, over every transport and
// protocol, and misses nothing.
import { HttpTransportType, JsonHubProtocol } from "@microsoft/signalr";
import { MessagePackHubProtocol } from "@microsoft/signalr-protocol-msgpack";
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { becomes, Device, recipient, send, until } from "./support.mjs";

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
      sent.push(await send({ to, content: `message ${sent.length}` }));
      await pause(200);
      return moved > 0;
    }, "the device to be told to go elsewhere", 60_000);
    sent.push(await send({ to, content: "after" }));
    for (const id of sent) await becomes(id, "delivered");
    const first = [...new Set(device.received.map((m) => m.id))];
    assert.deepEqual(first, sent);
    assert.equal(moved, 1);
  })));
});
