// Runs the scenarios in Node: node node.mjs FOLDER CONFIG, where FOLDER holds
// the client to use and CONFIG is a JSON list of configurations. Each result
// is a line of JSON on standard output.
import { createRequire } from "node:module";
import { Suite } from "./scenarios.mjs";

const [folder, configs] = process.argv.slice(2);
const require = createRequire(new URL(`./${folder}/`, import.meta.url));
const signalR = require("@microsoft/signalr");
const { MessagePackHubProtocol } = require("@microsoft/signalr-protocol-msgpack");
const major = Number(require("@microsoft/signalr/package.json").version.split(".")[0]);

// Old clients reject promises that nobody waits for when a connection is cut.
process.on("unhandledRejection", () => {});

// Side by side: they mostly wait, and each has hubs of its own.
await Promise.all(JSON.parse(configs).map((config) => {
  const suite = new Suite(signalR, () => new MessagePackHubProtocol(), { ...config, major });
  return suite.runAll((result) => console.log(JSON.stringify(result)));
}));
process.exit(0);
