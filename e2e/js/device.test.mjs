// One server, phones on the official client: receiving, acknowledging, reading, being refused.
import { HttpTransportType } from "@microsoft/signalr";
import assert from "node:assert/strict";
import { createHmac, randomUUID } from "node:crypto";
import { test } from "node:test";
import { becomes, call, Device, message, mint, recipient, send, url } from "./support.mjs";

const statuses = (m) => m.timeline.map((entry) => entry.status);

test("a message is received, acknowledged and delivered, and its timeline tells", async (t) => {
  const to = recipient("alice");
  const device = await new Device(to).connect(t);
  const id = await send({ to, content: "Your code is ٤٢", type: "otp", metadata: { order: "17" } });
  const [m] = await device.has(1);
  assert.equal(m.id, id);
  assert.equal(m.content, "Your code is ٤٢");
  assert.equal(m.type, "otp");
  assert.deepEqual(m.metadata, { order: "17" });
  assert.equal(m.attempt, 1);
  assert.ok(m.from);
  assert.ok(Math.abs(Date.now() - Date.parse(m.accepted_at)) < 60_000, m.accepted_at);
  assert.ok(!("data" in m));

  const after = await becomes(id, "delivered");
  assert.equal(after.to, to);
  const timeline = statuses(after);
  assert.equal(timeline[0], "accepted");
  assert.deepEqual(timeline.slice(-2), ["sent", "delivered"]);
  after.timeline.forEach((entry, i) => {
    assert.equal(entry.status_seq, i + 1);
    assert.ok(Date.parse(entry.at) >= Date.parse(after.timeline[Math.max(i - 1, 0)].at));
  });
});

test("a data message arrives as the JSON that was sent", async (t) => {
  const to = recipient("alice");
  const device = await new Device(to).connect(t);
  const data = { total: 12.5, items: [{ sku: "a", n: 1 }, null, true], "clé": "<ü>" };
  const id = await send({ to, data });
  const [m] = await device.has(1);
  assert.deepEqual(m.data, data);
  assert.ok(!("content" in m));
  await becomes(id, "delivered");
});

test("telephone numbers meet in their normal form", async (t) => {
  const digits = `96279${String(Date.now()).slice(-7)}`;
  const device = await new Device(`+${digits}`).connect(t);
  const id = await send({ to: `00${digits.slice(0, 3)} ${digits.slice(3, 5)}-${digits.slice(5)}`, content: "hello" });
  const [m] = await device.has(1);
  assert.equal(m.id, id);
  assert.equal((await becomes(id, "delivered")).to, `+${digits}`);
});

test("waiting messages come first, oldest first, and new ones behind them", async (t) => {
  const to = recipient("alice");
  const waiting = [];
  for (let i = 0; i < 150; i++) waiting.push(await send({ to, content: `waiting ${i}` }));
  await becomes(waiting[149], "queued");
  assert.equal((await message(waiting[0])).timeline.at(-1).reason, "recipient_offline");

  const device = new Device(to);
  const connecting = device.connect(t);
  const fresh = [];
  for (let i = 0; i < 50; i++) fresh.push(await send({ to, content: `fresh ${i}` }));
  await connecting;
  const received = await device.has(200);
  assert.deepEqual(received.map((m) => m.id), [...waiting, ...fresh]);
  await becomes(fresh[49], "delivered");
  await becomes(waiting[0], "delivered");
});

test("no more messages are under way than the window allows", async (t) => {
  const to = recipient("alice");
  for (let i = 0; i < 150; i++) await send({ to, content: `${i}` });
  const device = new Device(to);
  device.acknowledge = false;
  await device.connect(t);
  const received = await device.has(100);
  // What the window holds back cannot come before the acknowledgement; the ping of a call shows that
  // nothing else was on its way.
  await device.connection.invoke("AcknowledgeMessages", []);
  assert.equal(received.length, 100);
  device.acknowledge = true;
  await device.connection.invoke("AcknowledgeMessages", received.map((m) => m.id));
  assert.deepEqual((await device.has(150)).map((m) => m.content), Array.from({ length: 150 }, (_, i) => `${i}`));
});

test("two devices of a recipient both receive, and the first acknowledgement counts", async (t) => {
  const to = recipient("alice");
  const phone = new Device(to);
  const tablet = new Device(to);
  phone.acknowledge = tablet.acknowledge = false;
  await Promise.all([phone.connect(t), tablet.connect(t)]);
  const id = await send({ to, content: "to both" });
  assert.equal((await phone.has(1))[0].id, id);
  assert.equal((await tablet.has(1))[0].id, id);
  assert.equal((await becomes(id, "sent")).status, "sent");
  await tablet.connection.invoke("AcknowledgeMessage", id);
  await becomes(id, "delivered");
  await phone.connection.invoke("AcknowledgeMessage", id);

  // Nothing comes twice: the next message is the next to arrive at both.
  const next = await send({ to, content: "next" });
  assert.deepEqual((await phone.has(2)).map((m) => m.id), [id, next]);
  assert.deepEqual((await tablet.has(2)).map((m) => m.id), [id, next]);
  assert.equal(statuses(await message(id)).filter((s) => s === "delivered").length, 1);
});

test("MarkAsRead makes a delivered message read", async (t) => {
  const to = recipient("alice");
  const device = await new Device(to).connect(t);
  const id = await send({ to, content: "read me" });
  await device.has(1);
  await becomes(id, "delivered");
  await device.connection.invoke("MarkAsRead", [id]);
  assert.deepEqual(statuses(await becomes(id, "read")).slice(-2), ["delivered", "read"]);
});

test("acknowledging another recipient's message changes nothing", async (t) => {
  const to = recipient("alice");
  const alice = new Device(to);
  alice.acknowledge = false;
  await alice.connect(t);
  const eve = await new Device(recipient("eve")).connect(t);
  const id = await send({ to, content: "for alice alone" });
  await alice.has(1);
  await eve.connection.invoke("AcknowledgeMessages", [id]).catch(() => {});
  await eve.connection.invoke("MarkAsRead", [id]).catch(() => {});
  assert.equal((await message(id)).status, "sent");
  await alice.connection.invoke("AcknowledgeMessage", id);
  await becomes(id, "delivered");
  assert.equal(eve.received.length, 0);
});

test("what is not acknowledged in time is sent again, and the attempts are counted", async (t) => {
  const to = recipient("alice");
  const device = new Device(to);
  device.acknowledge = false;
  await device.connect(t);
  const id = await send({ to, content: "again" });
  const [first, second] = await device.has(2);
  assert.equal(first.id, id);
  assert.equal(second.id, id);
  assert.deepEqual([first.attempt, second.attempt], [1, 2]);
  await device.connection.invoke("AcknowledgeMessage", id);
  const after = await becomes(id, "delivered");
  assert.ok(after.timeline.some((entry) => entry.status === "queued" && entry.reason === "ack_timeout"), JSON.stringify(after.timeline));
});

test("a batch accepts and refuses each message on its own", async (t) => {
  const to = recipient("alice");
  const device = await new Device(to).connect(t);
  const answer = await call("POST", "/v1/messages/batch", {
    messages: [
      { to, content: "one" },
      { to: "", content: "to nobody" },
      { to, content: "two", data: {} },
      { to, content: "three" },
    ],
  });
  assert.ok(answer.status === 200 || answer.status === 202 || answer.status === 207, `${answer.status}`);
  const results = answer.body.results;
  assert.equal(results.length, 4);
  assert.ok(results[1].problem && results[2].problem, JSON.stringify(results));
  const received = await device.has(2);
  assert.deepEqual(received.map((m) => m.content), ["one", "three"]);
  assert.deepEqual(received.map((m) => m.id), [results[0].id, results[3].id]);
  await becomes(results[3].id, "delivered");
});

test("an idempotency key makes one message of two requests", async (t) => {
  const to = recipient("alice");
  const device = await new Device(to).connect(t);
  const headers = { "Idempotency-Key": randomUUID() };
  const first = await send({ to, content: "once" }, headers);
  await device.has(1);
  assert.equal(await send({ to, content: "once" }, headers), first);
  const other = await call("POST", "/v1/messages", { to, content: "another" }, headers);
  assert.equal(other.status, 422, JSON.stringify(other.body));
  const last = await send({ to, content: "last" });
  assert.deepEqual((await device.has(2)).map((m) => m.id), [first, last]);
});

test("a device without negotiation works as well", async (t) => {
  const to = recipient("alice");
  const device = await new Device(to, {
    options: { skipNegotiation: true, transport: HttpTransportType.WebSockets },
  }).connect(t);
  const id = await send({ to, content: "straight" });
  assert.equal((await device.has(1))[0].id, id);
  await becomes(id, "delivered");
});

// forge returns a token with these claims, signed with that secret.
function forge(claims, secret) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const body = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${body}.${createHmac("sha256", secret).update(body).digest("base64url")}`;
}

const now = Math.floor(Date.now() / 1000);
const refused = {
  "an expired token": forge({ sub: "alice", exp: now - 3600 }, process.env.E2E_JWT_SECRET),
  "a token signed with another secret": forge({ sub: "alice", exp: now + 600 }, "not the secret of this server, certainly"),
  "a token for nobody": forge({ exp: now + 600 }, process.env.E2E_JWT_SECRET),
  "a token that is none": "abc.def.ghi",
  "no token": "",
};
for (const [name, token] of Object.entries(refused)) {
  test(`${name} is refused with a reason`, async (t) => {
    const device = new Device("alice", { token });
    await assert.rejects(device.connect(t), /401/);
    const straight = new Device("alice", { token, options: { skipNegotiation: true, transport: HttpTransportType.WebSockets } });
    await assert.rejects(straight.connect(t));

    const answer = await fetch(`${url}/hubs/mobile/negotiate?negotiateVersion=1`, {
      method: "POST",
      headers: token ? { Authorization: `Bearer ${token}` } : {},
    });
    assert.equal(answer.status, 401);
    assert.match(answer.headers.get("content-type"), /^application\/problem\+json/);
    const problem = await answer.json();
    assert.ok(problem.code && problem.detail, JSON.stringify(problem));
    if (name === "an expired token") assert.match(problem.code + problem.detail, /expired/);
  });
}

test("a minted token is for the recipient that it names", async (t) => {
  const to = recipient("alice");
  const device = await new Device("somebody else", { token: await mint(to) }).connect(t);
  const id = await send({ to, content: "hello" });
  assert.equal((await device.has(1))[0].id, id);
});
