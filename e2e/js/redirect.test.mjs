// A node with many devices sends the official client to another one, where everything works as at home.
import assert from "node:assert/strict";
import { test } from "node:test";
import { becomes, Device, isSentElsewhere, recipient, send } from "./support.mjs";

test("the negotiation names another hub, with what the device said of itself", isSentElsewhere);

test("a device that is sent to another node gets its messages there", async (t) => {
  const to = recipient("alice");
  const device = await new Device(to).connect(t);
  for (let i = 1; i <= 3; i++) {
    const id = await send({ to, content: `message ${i}` });
    assert.equal((await device.has(i))[i - 1].id, id);
    await becomes(id, "delivered");
  }
});
