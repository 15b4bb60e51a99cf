// Looks at the page of the browser example: node page.mjs CHROMIUM URL. Each line of the standard input
// is a message's id, which it answers with what the page shows of it, as a line of JSON, once it does;
// the first answer is the state "connected".
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const [executablePath, url] = process.argv.slice(2);
const say = (value) => console.log(JSON.stringify(value));

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
try {
  const tab = await browser.newPage();
  tab.on("pageerror", (error) => say({ error: error.message }));
  await tab.goto(url);
  await tab.waitForFunction(() => document.querySelector("#state").value === "connected");
  say({ state: "connected" });
  for await (const id of createInterface({ input: process.stdin })) {
    const items = tab.locator(`#messages li[data-id="${id}"]`);
    await items.first().waitFor();
    say({ id, count: await items.count(), text: await items.first().innerText(), markup: await items.first().locator("b").count() });
  }
} finally {
  await browser.close();
}
