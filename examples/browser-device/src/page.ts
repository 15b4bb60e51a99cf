// A device in a web page. Its server must allow the page's origin: esh3ar serve --allowed-origins …
import { type HubConnection, HubConnectionBuilder, LogLevel } from "@microsoft/signalr";

interface Message {
  id: string;
  from: string;
  content?: string;
  data?: unknown;
  accepted_at: string;
}

function element<T extends Element>(selector: string): T {
  const found = document.querySelector<T>(selector);
  if (!found) throw new Error(`the page has no ${selector}`);
  return found;
}
const form = element<HTMLFormElement>("form");
const state = element<HTMLOutputElement>("#state");
const list = element<HTMLOListElement>("#messages");

function show(message: Message): void {
  const item = document.createElement("li");
  item.dataset["id"] = message.id;
  // As text, never as HTML: it is from somebody else.
  item.textContent = message.content ?? JSON.stringify(message.data);
  const small = document.createElement("small");
  small.textContent = ` from ${message.from}, ${new Date(message.accepted_at).toLocaleString()}`;
  item.append(small);
  list.append(item);
}

let current: HubConnection | undefined;

async function connect(url: string, token: string): Promise<void> {
  await current?.stop();
  const connection = new HubConnectionBuilder()
    .withUrl(`${url}/hubs/mobile`, { accessTokenFactory: () => token })
    .withAutomaticReconnect({
      nextRetryDelayInMilliseconds: ({ previousRetryCount: n }) => Math.random() * Math.min(30_000, 500 * 2 ** n),
    })
    .configureLogging(LogLevel.Warning)
    .build();
  current = connection;

  const shown = new Set<string>(); // messages come at least once
  connection.on("ReceiveMessage", async (message: Message) => {
    if (!shown.has(message.id)) show(message);
    shown.add(message.id);
    // Once it is on the page. If this is lost, the message comes again.
    await connection.send("AcknowledgeMessage", message.id).catch(() => undefined);
  });
  connection.onreconnecting(() => (state.value = "reconnecting"));
  connection.onreconnected(() => (state.value = "connected"));
  connection.onclose((error) => (state.value = error ? `closed: ${error.message}` : "not connected"));

  state.value = "connecting";
  try {
    await connection.start();
    state.value = "connected";
  } catch (error) {
    state.value = `not connected: ${error instanceof Error ? error.message : String(error)}`;
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const fields = new FormData(form);
  void connect(String(fields.get("url")), String(fields.get("token")));
});

// A link may fill in the form: index.html#url=…&token=… What follows the # is not sent to any server.
const given = new URLSearchParams(location.hash.slice(1));
for (const name of ["url", "token"]) {
  const value = given.get(name);
  if (value) element<HTMLInputElement>(`input[name=${name}]`).value = value;
}
if (given.get("token")) form.requestSubmit();
