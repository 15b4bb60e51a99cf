// What an official SignalR client does with the hubs of server_test.go. The
// scenarios run in Node and in browsers, with any version of the client.
//
// config: {hub, ordered, impatient, redirect, control, transport, protocol, token, major,
// skipNegotiation}

const transports = { WebSockets: 1, ServerSentEvents: 2, LongPolling: 4 };
const patience = 60000;

function fail(message) {
  throw new Error(message);
}

// text is JSON with sorted keys; undefined counts as null.
function text(value) {
  const sorted = (_, v) =>
    v && typeof v === "object" && !Array.isArray(v) ? Object.fromEntries(Object.entries(v).sort()) : v;
  return JSON.stringify(value ?? null, sorted);
}

function equal(got, want, what) {
  const g = text(got);
  const w = text(want);
  if (g !== w) fail(`${what}: got ${g}, want ${w}`);
}

function within(promise, what, ms = patience) {
  let timer;
  const timeout = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${ms} ms for ${what}`)), ms);
  });
  return Promise.race([promise, timeout]).finally(() => clearTimeout(timer));
}

// A mailbox collects what callbacks get.
class Mailbox {
  items = [];
  waiting = [];
  put(item) {
    const w = this.waiting.shift();
    if (w) w(item);
    else this.items.push(item);
  }
  take(what) {
    if (this.items.length > 0) return Promise.resolve(this.items.shift());
    return within(new Promise((resolve) => this.waiting.push(resolve)), what);
  }
}

export class Suite {
  constructor(signalR, newMessagePack, config) {
    this.signalR = signalR;
    this.newMessagePack = newMessagePack;
    this.config = config;
    this.open = [];
  }

  connection(changes = {}) {
    const c = { ...this.config, ...changes };
    const options = { transport: transports[c.transport], logger: this.signalR.LogLevel.None };
    if (c.token) options.accessTokenFactory = () => c.token;
    if (c.skipNegotiation) options.skipNegotiation = true;
    let builder = new this.signalR.HubConnectionBuilder()
      .withUrl(c.hub, options)
      .configureLogging(this.signalR.LogLevel.None);
    if (c.protocol === "messagepack") builder = builder.withHubProtocol(this.newMessagePack());
    if (c.reconnect) builder = builder.withAutomaticReconnect(c.reconnect);
    if (c.stateful) builder = builder.withStatefulReconnect();
    const connection = builder.build();
    this.open.push(connection);
    return connection;
  }

  async start(changes) {
    const connection = this.connection(changes);
    await within(connection.start(), "the start");
    return connection;
  }

  async control(path) {
    const response = await fetch(this.config.control + path, { method: "POST" });
    return response.text();
  }

  async closeAll() {
    for (const c of this.open.splice(0)) await within(c.stop(), "the stop").catch(() => {});
  }

  // scenarios returns the names and functions of what applies to the config.
  scenarios() {
    const { transport, protocol, major } = this.config;
    const list = {
      echo: this.echo,
      errors: this.errors,
      order: this.order,
      streamDown: this.streamDown,
      streamUp: this.streamUp,
      streamBothWays: this.streamBothWays,
      cancel: this.cancel,
      groups: this.groups,
      token: this.token,
      badToken: this.badToken,
      redirect: this.redirect,
      stop: this.stop,
      serverCloses: this.serverCloses,
      cut: this.cut,
      pings: this.pings,
    };
    if (transport === "WebSockets") list.skipNegotiation = this.skipNegotiation;
    if (major >= 5) list.serverClosesWithReconnect = this.serverClosesWithReconnect;
    if (major >= 7) list.clientResults = this.clientResults;
    if (major >= 8 && transport === "WebSockets") list.stateful = this.stateful;
    if (major >= 8) list.statefulOrNot = this.statefulOrNot;
    return Object.entries(list).map(([name, run]) => ({ name: `${protocol}/${transport}/${name}`, run: run.bind(this) }));
  }

  async runAll(report) {
    for (const { name, run } of this.scenarios()) {
      try {
        await run();
        report({ name, ok: true });
      } catch (e) {
        report({ name, ok: false, error: String((e && e.stack) || e) });
      }
      await this.closeAll();
    }
  }

  async echo() {
    const c = await this.start();
    for (const value of ["", "grüß dich \u2028 \"x\" \u0001", "x".repeat(20000), 0, -1, 127, 128, 65536, 2 ** 40, 1.5, true, null,
      [], [1, [2, [3]]], { a: { b: [1, "2", null] }, "": false }]) {
      equal(await c.invoke("Echo", value), value, "Echo");
    }
    equal(await c.invoke("add", 40, 2), 42, "add, by its name in lower case");
    equal(await c.invoke("Nothing"), null, "Nothing");
  }

  async errors() {
    const c = await this.start();
    const message = async (...args) => {
      try {
        await c.invoke(...args);
      } catch (e) {
        return e.message;
      }
      return "no error";
    };
    equal(await message("Refuse", "told"),
      "An unexpected error occurred invoking 'Refuse' on the server. HubException: told", "Refuse");
    equal(await message("Fail"), "An unexpected error occurred invoking 'Fail' on the server.", "Fail");
    equal(await message("Nope"), "Unknown hub method 'Nope'", "Nope");
    equal(await message("Add", 1), "Failed to invoke 'Add' due to an error on the server.", "Add(1)");
    await c.send("Refuse", "nobody hears this");
    equal(await c.invoke("Echo", 1), 1, "Echo after errors");
  }

  async order() {
    const c = await this.start();
    const got = [];
    const done = new Mailbox();
    const n = 1000;
    c.on("Number", (i) => {
      got.push(i);
      if (got.length === n) done.put();
    });
    await c.send("Push", n);
    await done.take("all messages");
    equal(got, [...Array(n).keys()], "messages");
  }

  collect(stream) {
    return within(new Promise((resolve, reject) => {
      const items = [];
      stream.subscribe({ next: (i) => items.push(i), complete: () => resolve(items), error: reject });
    }), "the end of a stream");
  }

  async streamDown() {
    const c = await this.start();
    equal(await this.collect(c.stream("Count", 300)), [...Array(300).keys()], "items");
    equal(await this.collect(c.stream("Count", 0)), [], "no items");
    const error = await this.collect(c.stream("CountAndFail", 3)).catch((e) => e.message);
    equal(error, "An unexpected error occurred invoking 'CountAndFail' on the server. HubException: enough", "error");
  }

  async streamUp() {
    const c = await this.start();
    const subject = new this.signalR.Subject();
    const sum = c.invoke("Sum", subject);
    for (let i = 0; i < 100; i++) subject.next(i);
    subject.complete();
    equal(await within(sum, "the sum"), 4950, "sum");
    const broken = new this.signalR.Subject();
    const failed = c.invoke("Sum", broken).then(() => "no error", (e) => e.message);
    broken.next(1);
    broken.error(new Error("lost"));
    if (!(await within(failed, "the failure")).includes("unexpected error")) fail("a broken upload succeeded");
  }

  async streamBothWays() {
    const c = await this.start();
    const subject = new this.signalR.Subject();
    const doubled = this.collect(c.stream("Double", subject));
    for (let i = 0; i < 50; i++) subject.next(i);
    subject.complete();
    equal(await doubled, [...Array(50).keys()].map((i) => 2 * i), "doubled");
  }

  async cancel() {
    const c = await this.start();
    const first = new Mailbox();
    const subscription = c.stream("Forever").subscribe({ next: (i) => first.put(i), complete() {}, error() {} });
    await first.take("the first item");
    subscription.dispose();
    equal(await within(c.invoke("ForeverEnded"), "the end"), true, "ended");
  }

  async groups() {
    const [a, b] = [await this.start(), await this.start()];
    const mail = new Mailbox();
    a.on("Tell", (text) => mail.put("a:" + text));
    b.on("Tell", (text) => mail.put("b:" + text));
    const group = "g" + Math.random();
    await a.invoke("Join", group);
    equal(await b.invoke("TellGroup", group, "x"), 1, "sent to");
    equal(await mail.take("the message"), "a:x", "message");
  }

  async token() {
    const c = await this.start();
    equal(await c.invoke("WhoAmI"), this.config.token, "user");
  }

  async badToken() {
    const error = await this.start({ token: "bad" }).then(() => "no error", (e) => String(e));
    if (!/401|Unauthorized/.test(error)) fail(`a bad token: ${error}`);
  }

  async redirect() {
    const c = await this.start({ hub: this.config.redirect });
    equal(await c.invoke("WhoAmI"), "redirected", "user");
  }

  async skipNegotiation() {
    const c = await this.start({ skipNegotiation: true });
    equal(await c.invoke("Echo", "x"), "x", "Echo");
  }

  async stop() {
    const c = await this.start();
    const ended = new Mailbox();
    c.onclose((e) => ended.put(e ? e.message : "none"));
    const id = await c.invoke("ConnectionID");
    if (c.connectionId !== undefined && c.connectionId !== id) fail(`the client has id ${c.connectionId}, the server ${id}`);
    await within(c.stop(), "the stop");
    equal(await ended.take("onclose"), "none", "error");
    const heard = await this.control(`/ended?id=${id}`);
    // The first versions close their transport without a word.
    if (this.config.major >= 5 || this.config.transport !== "WebSockets") equal(heard, "no error", "OnDisconnected");
  }

  async serverCloses() {
    const c = await this.start();
    const ended = new Mailbox();
    c.onclose((e) => ended.put(e ? e.message : "none"));
    await c.send("CloseMe", "go away", false);
    const error = await ended.take("onclose");
    if (!error.includes("go away")) fail(`closed with ${error}`);
  }

  async serverClosesWithReconnect() {
    const c = await this.start({ reconnect: [0, 0, 0] });
    const before = c.connectionId;
    const again = new Mailbox();
    c.onreconnected((id) => again.put(id));
    await c.send("CloseMe", "come back", true);
    const id = await again.take("onreconnected");
    if (id === before) fail("the id is the same");
    equal(await c.invoke("ConnectionID"), id, "id");
  }

  async cut() {
    const c = await this.start({ reconnect: [0, 50, 100, 200] });
    const again = new Mailbox();
    c.onreconnected((id) => again.put(id));
    await this.control("/cut");
    await again.take("onreconnected");
    equal(await c.invoke("Echo", "x"), "x", "Echo");
  }

  async pings() {
    const c = await this.start({ hub: this.config.impatient });
    const ended = new Mailbox();
    c.onclose((e) => ended.put(e ? e.message : "none"));
    // The server pings every 200 ms, and gives up after 3 s of silence.
    c.serverTimeoutInMilliseconds = 3000;
    c.keepAliveIntervalInMilliseconds = 500;
    await c.invoke("Echo", 1); // resets the timers
    await new Promise((resolve) => setTimeout(resolve, 4000));
    if (ended.items.length > 0) fail(`an idle connection ended with ${ended.items[0]}`);
    equal(await c.invoke("Echo", "x"), "x", "Echo");
  }

  async clientResults() {
    const c = await this.start();
    c.on("Ask", (n) => {
      if (n < 0) throw new Error("negative");
      return 2 * n;
    });
    equal(await within(c.invoke("AskMe", 21), "the answer"), 42, "answer");
    const error = await c.invoke("AskMe", -1).then(() => "no error", (e) => e.message);
    if (!error.includes("negative")) fail(`the handler's error came back as ${error}`);
    c.off("Ask");
    c.on("Ask", () => {});
    const none = await c.invoke("AskMe", 1).then(() => "no error", (e) => e.message);
    if (!none.includes("provide a result")) fail(`no result came back as ${none}`);
  }

  async statefulOrNot() {
    // Asked for or not, and whether the transport can or not.
    const c = await this.start({ stateful: true });
    equal(await c.invoke("Echo", "x"), "x", "Echo");
  }

  // Nothing is lost, nothing comes twice, and everything keeps its order: the
  // client numbers messages as they are sent, and after a cut repeats what was
  // not acknowledged before it sends anything new.
  async stateful() {
    const c = this.connection({ hub: this.config.ordered, stateful: true, reconnect: [0] });
    const got = [];
    const done = new Mailbox();
    const n = 400;
    let lost = 0;
    c.onreconnecting(() => lost++);
    c.on("Number", (i) => {
      got.push(i);
      if (got.length === n) done.put();
    });
    await within(c.start(), "the start");
    const id = c.connectionId;
    const key = "k" + Math.random();
    const pushed = this.collect(c.stream("PushSlowly", n));
    const subject = new this.signalR.Subject();
    const collected = c.invoke("Collect", subject);
    const streamed = this.collect(c.stream("CountSlowly", n));
    let back = Promise.resolve();
    for (let i = 0; i < n; i++) {
      subject.next(i);
      if (i % 5 === 0) await c.send("Remember", key, i);
      if (i % 80 === 40) {
        // The client gives up when its way back is cut, so it must have
        // arrived before the next cut.
        await within(back, "the way back");
        await this.control("/cut");
        back = c.invoke("Echo", i);
      }
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    subject.complete();
    const numbers = [...Array(n).keys()];
    await done.take("all messages");
    equal(await pushed, [], "PushSlowly");
    equal(got, numbers, "pushed messages");
    equal(await streamed, numbers, "streamed items");
    equal(await within(collected, "the collection"), numbers, "uploaded items");
    equal(await c.invoke("Remembered", key), numbers.filter((i) => i % 5 === 0), "sent messages");
    equal(lost, 0, "connections lost");
    equal(c.connectionId, id, "id");
    equal(await c.invoke("ConnectionID"), id, "id at the server");
  }
}
