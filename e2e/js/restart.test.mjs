// The server goes away and comes back; phones on the official client reconnect by themselves.
import assert from "node:assert/strict";
import { test } from "node:test";
import { becomes, Device, recipient, restart, send, until } from "./support.mjs";

// patient reconnects after 50 ms, for as long as it takes.
const patient = { nextRetryDelayInMilliseconds: () => 50 };

for (const signal of ["SIGTERM", "SIGKILL"]) {
  test(`after ${signal} a device reconnects and misses nothing`, async (t) => {
    const to = recipient("alice");
    const device = new Device(to, { reconnect: patient });
    let reconnected = 0;
    device.connection.onreconnected(() => reconnected++);
    await device.connect(t);

    const acknowledged = await send({ to, content: "acknowledged before" });
    await device.has(1);
    await becomes(acknowledged, "delivered");
    device.acknowledge = false;
    const open = await send({ to, content: "received before, not acknowledged" });
    await device.has(2);
    device.acknowledge = true;

    const away = recipient("bob");
    const waiting = [];
    for (let i = 0; i < 20; i++) waiting.push(await send({ to: away, content: `waiting ${i}` }));

    await restart(signal);
    await until(() => reconnected === 1, "the device to reconnect");
    const received = await device.has(3);
    assert.equal(received[2].id, open, "what was not acknowledged comes again");
    await becomes(open, "delivered");

    const fresh = await send({ to, content: "after" });
    assert.equal((await device.has(4))[3].id, fresh);
    await becomes(fresh, "delivered");

    // Those that waited through the restart are still there, in order.
    const late = await new Device(away).connect(t);
    assert.deepEqual((await late.has(20)).map((m) => m.id), waiting);
    await becomes(waiting[19], "delivered");
  });
}

test("a device that drops off gets what came meanwhile when it is back", async (t) => {
  const to = recipient("alice");
  const device = await new Device(to).connect(t);
  const first = await send({ to, content: "first" });
  await device.has(1);
  await device.connection.stop();
  const missed = [];
  for (let i = 0; i < 10; i++) missed.push(await send({ to, content: `missed ${i}` }));
  await becomes(missed[9], "queued");
  await device.connection.start();
  assert.deepEqual((await device.has(11)).map((m) => m.id), [first, ...missed]);
  await becomes(missed[9], "delivered");
});
