// Repeats and late ones: what is told of a message may come again.
import type { StatusEvent } from "./events.js";

const remembered = 10_000;

// Latest knows the highest status_seq of each of the newest messages. In your database this is a condition:
// UPDATE … SET status = $1, status_seq = $2 WHERE id = $3 AND status_seq < $2.
export class Latest {
  readonly #highest = new Map<string, number>();

  // news reports whether the event says something new.
  news({ data }: StatusEvent): boolean {
    if (data.status_seq <= (this.#highest.get(data.id) ?? 0)) return false;
    this.#highest.delete(data.id); // to the end of the map, whose beginning is forgotten
    this.#highest.set(data.id, data.status_seq);
    for (const [oldest] of this.#highest) {
      if (this.#highest.size <= remembered) break;
      this.#highest.delete(oldest);
    }
    return true;
  }
}
