// The event stream: everything that becomes of our messages, as it happens.
import { setTimeout as sleep } from "node:timers/promises";
import { backoff, headers, type Problem, refusal, Refused, url } from "./api.js";

export interface StatusEvent {
  id: string; // the cursor right behind this event
  type: string;
  time: string;
  data: {
    id: string; // the message's
    to: string;
    status: string;
    status_seq: number; // who keeps the highest of a message is right
    attempt?: number;
    reason?: string;
  };
}

// The server says every 15 s that it is there. A stream that says nothing for so long is lost.
const silence = 40_000;

// events yields our events without end, from behind the cursor, or from now on without one. A lost
// connection is made again, and goes on behind the last event that the loop has finished with, so that
// none is missed; the last one may come again.
export async function* events(cursor: string | undefined, connected?: () => void): AsyncGenerator<StatusEvent> {
  for (let failures = 0; ; ) {
    let open = false;
    const lost = new AbortController();
    let timer = setTimeout(() => lost.abort(), silence);
    try {
      const response = await fetch(`${url}/v1/events`, {
        headers: { ...headers(), Accept: "text/event-stream", ...(cursor ? { "Last-Event-ID": cursor } : {}) },
        signal: lost.signal,
      });
      if (!response.ok || !response.body) throw await refusal(response);
      for await (const block of blocks(response.body)) {
        clearTimeout(timer);
        timer = setTimeout(() => lost.abort(), silence);
        if (!open) connected?.();
        open = true;
        if (block.event === "problem") throw new Refused(JSON.parse(block.data) as Problem);
        if (block.data) yield JSON.parse(block.data) as StatusEvent;
        if (block.id) cursor = block.id;
      }
    } catch (error) {
      if (error instanceof Refused && error.problem.oldest_cursor) {
        console.error(`some events are not kept any more: ${error.message}`);
        cursor = error.problem.oldest_cursor;
      } else if (error instanceof Refused && error.problem.permanent) {
        throw error;
      }
    } finally {
      clearTimeout(timer);
      lost.abort(); // also when the loop is left
    }
    failures = open ? 0 : failures + 1;
    await sleep(backoff(failures));
  }
}

interface Block {
  id: string;
  event: string;
  data: string;
}

// blocks cuts a stream of server-sent events at its empty lines.
async function* blocks(body: ReadableStream<Uint8Array>): AsyncGenerator<Block> {
  const decoder = new TextDecoder();
  let rest = "";
  let block: Block = { id: "", event: "", data: "" };
  for await (const chunk of body) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const raw of lines) {
      const line = raw.replace(/\r$/, "");
      if (line === "") {
        yield block;
        block = { id: "", event: "", data: "" };
        continue;
      }
      const [, name, value = ""] = /^([^:]*):? ?(.*)$/.exec(line) ?? [];
      if (name === "id") block.id = value;
      else if (name === "event") block.event = value;
      else if (name === "data") block.data += (block.data && "\n") + value;
    }
  }
}
