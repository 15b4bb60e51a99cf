// Runs the scenarios in a headless Chromium: node browser.mjs PAGE CONFIGS.
// PAGE is a page of another origin than the hub's that loads scenarios.mjs and
// the client; CONFIGS is a JSON list of configurations. Each result is a line
// of JSON on standard output.
import { createRequire } from "node:module";

const [page, configs, executable] = process.argv.slice(2);
const require = createRequire(new URL("./current/", import.meta.url));
const { chromium } = require("playwright-core");

const browser = await chromium.launch({ executablePath: executable, args: ["--no-sandbox", "--disable-gpu"] });
try {
  const tab = await browser.newPage();
  tab.on("pageerror", (e) => console.error("page:", e.message));
  await tab.exposeFunction("report", (result) => console.log(JSON.stringify(result)));
  await tab.goto(page);
  await tab.waitForFunction(() => window.ready);
  await tab.evaluate((list) => window.runAll(list), JSON.parse(configs));
} finally {
  await browser.close();
}
