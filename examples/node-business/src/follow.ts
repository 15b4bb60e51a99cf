// Prints what becomes of our messages: npm run follow
// The cursor is kept in a file, so that the next start goes on where this one ended.
import { readFile, rename, writeFile } from "node:fs/promises";
import { events } from "./events.js";

const file = process.env["ESH3AR_CURSOR_FILE"] ?? "cursor";
const cursor = await readFile(file, "utf8").catch(() => undefined);

// The highest status_seq of each message, to drop repeats by. In your database this is a condition:
// UPDATE … SET status = $1, status_seq = $2 WHERE id = $3 AND status_seq < $2.
const highest = new Map<string, number>();
const remembered = 10_000;

for await (const { id, time, data } of events(cursor, () => console.log("following"))) {
  if (data.status_seq > (highest.get(data.id) ?? 0)) {
    console.log(time, data.id, data.status, data.reason ?? "");
    highest.delete(data.id); // to the end of the map, whose beginning is forgotten
    highest.set(data.id, data.status_seq);
    for (const [oldest] of highest) {
      if (highest.size <= remembered) break;
      highest.delete(oldest);
    }
  }
  // Only now: what was not handled to the end comes again.
  await writeFile(`${file}.new`, id);
  await rename(`${file}.new`, file);
}
