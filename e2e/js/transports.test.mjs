// Every way in which the official client can be connected: transports, protocols, and the three ways to
// acknowledge.
import { HttpTransportType, JsonHubProtocol } from "@microsoft/signalr";
import { MessagePackHubProtocol } from "@microsoft/signalr-protocol-msgpack";
import assert from "node:assert/strict";
import { test } from "node:test";
import { becomes, Device, message, recipient, send } from "./support.mjs";

const transports = {
  WebSockets: HttpTransportType.WebSockets,
  "server-sent events": HttpTransportType.ServerSentEvents,
  "long polling": HttpTransportType.LongPolling,
};
const protocols = { JSON: () => new JsonHubProtocol(), MessagePack: () => new MessagePackHubProtocol() };

for (const [carried, transport] of Object.entries(transports)) {
  for (const [encoded, protocol] of Object.entries(protocols)) {
    if (transport === HttpTransportType.ServerSentEvents && encoded === "MessagePack") continue; // text only
    test(`${carried} with ${encoded}`, async (t) => {
      const to = recipient("alice");
      const data = { total: 12.5, items: [{ sku: "a", n: 1 }, null, true], "clé": "<ü>" };
      const waiting = await send({ to, data, type: "invoice", metadata: { order: "17" } });
      await becomes(waiting, "queued");

      const device = await new Device(to, { protocol: protocol(), options: { transport } }).connect(t);
      const [first] = await device.has(1);
      assert.equal(first.id, waiting);
      assert.deepEqual(first.data, data);
      assert.equal(first.type, "invoice");
      assert.deepEqual(first.metadata, { order: "17" });
      assert.ok(Math.abs(Date.now() - Date.parse(first.accepted_at)) < 60_000, first.accepted_at);
      await becomes(waiting, "delivered");

      const live = await send({ to, content: "now" });
      const second = (await device.has(2))[1];
      assert.equal(second.id, live);
      assert.equal(second.content, "now");
      assert.equal(second.attempt, 1);
      await becomes(live, "delivered");
      await device.connection.invoke("MarkAsRead", [live]);
      await becomes(live, "read");
    });

    test(`${carried} with ${encoded}: what the handler returns is the acknowledgement`, async (t) => {
      const to = recipient("alice");
      const device = new Device(to, { protocol: protocol(), options: { transport }, query: "?ack=result" });
      device.acknowledge = false;
      device.result = () => true;
      await device.connect(t);
      const id = await send({ to, content: "hello" });
      await becomes(id, "delivered");
      assert.equal((await device.has(1)).length, 1);
    });
  }
}

test("a handler that fails or returns nothing acknowledges nothing", async (t) => {
  const to = recipient("alice");
  const device = new Device(to, { query: "?ack=result" });
  device.acknowledge = false;
  const results = [
    () => {
      throw new Error("not now");
    },
    () => undefined,
    () => "shown",
  ];
  device.result = () => results.shift()();
  await device.connect(t);
  const id = await send({ to, content: "hello" });
  await becomes(id, "delivered");
  const attempts = (await device.has(3)).map((m) => m.attempt);
  assert.deepEqual(attempts, [1, 2, 3]);
  assert.equal((await message(id)).attempts, 3);
});

test("several identifiers are acknowledged by one call", async (t) => {
  const to = recipient("alice");
  const device = new Device(to);
  device.acknowledge = false;
  await device.connect(t);
  const ids = [];
  for (let i = 0; i < 5; i++) ids.push(await send({ to, content: `m${i}` }));
  await device.has(5);
  await device.connection.invoke("AcknowledgeMessages", ids);
  for (const id of ids) await becomes(id, "delivered");
});
