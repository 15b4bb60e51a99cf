// A node with many devices sends the official client to another one, where everything works as at home.
import assert from "node:assert/strict";
import { test } from "node:test";
import { becomes, Device, mint, recipient, send, url } from "./support.mjs";

test("the negotiation names another hub, with what the device said of itself", async () => {
  const token = await mint(recipient("alice"));
  const answer = await fetch(`${url}/hubs/mobile/negotiate?negotiateVersion=1&ack=result`, { method: "POST", headers: { Authorization: `Bearer ${token}` } });
  assert.equal(answer.status, 200);
  const body = await answer.json();
  assert.match(body.url, /^http:\/\/127\.0\.0\.1:\d+\/hubs\/mobile\?ack=result&moved=1$/);
  assert.notEqual(new URL(body.url).origin, new URL(url).origin);
  assert.equal(body.accessToken, token);
  assert.ok(!body.connectionToken && !body.availableTransports);
});

test("a device that is sent to another node gets its messages there", async (t) => {
  const to = recipient("alice");
  const device = await new Device(to).connect(t);
  for (let i = 1; i <= 3; i++) {
    const id = await send({ to, content: `message ${i}` });
    assert.equal((await device.has(i))[i - 1].id, id);
    await becomes(id, "delivered");
  }
});
