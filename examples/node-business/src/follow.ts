// Prints what becomes of our messages: npm run follow
// The cursor is kept in a file, so that the next start goes on where this one ended.
import { readFile, rename, writeFile } from "node:fs/promises";
import { events } from "./events.js";
import { Latest } from "./latest.js";

const file = process.env["ESH3AR_CURSOR_FILE"] ?? "cursor";
const cursor = await readFile(file, "utf8").catch(() => undefined);

const latest = new Latest();
for await (const event of events(cursor, () => console.log("following"))) {
  if (latest.news(event)) console.log(event.time, event.data.id, event.data.status, event.data.reason ?? "");
  // Only now: what was not handled to the end comes again.
  await writeFile(`${file}.new`, event.id);
  await rename(`${file}.new`, file);
}
