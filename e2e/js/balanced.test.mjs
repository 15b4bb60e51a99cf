// A device that negotiates at a balancer goes on at a node's own address: the official client does, over every transport, and while it
// is connected the balancer has nothing open for it.
import { HttpTransportType } from "@microsoft/signalr";
import assert from "node:assert/strict";
import { test } from "node:test";
import { becomes, Device, isSentElsewhere, recipient, send } from "./support.mjs";

// open returns how many requests, streams and WebSockets the balancer has open to the nodes.
async function open() {
  const { nodes } = await (await fetch(`${process.env.E2E_ADMIN}/nodes`)).json();
  assert.equal(nodes.length, 3);
  return nodes.reduce((sum, node) => sum + node.streams + node.in_flight, 0);
}

test("the negotiation names a hub, which is not the balancer's", isSentElsewhere);

for (const transport of [HttpTransportType.WebSockets, HttpTransportType.ServerSentEvents, HttpTransportType.LongPolling]) {
  test(`a device at the balancer gets its messages past it: ${HttpTransportType[transport]}`, async (t) => {
    const to = recipient("alice");
    const device = await new Device(to, { options: { transport } }).connect(t);
    for (let i = 1; i <= 3; i++) {
      const id = await send({ to, content: `message ${i}` });
      assert.equal((await device.has(i))[i - 1].id, id);
      await becomes(id, "delivered");
    }
    assert.equal(await open(), 0);
  });
}
