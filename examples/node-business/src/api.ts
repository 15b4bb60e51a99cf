// What the parts share: where the server is, who we are, and how it refuses.

export const url = process.env["ESH3AR_URL"] ?? "http://127.0.0.1:8080";

// headers are those of every request. The key comes from the environment and never from the source.
export function headers(): Record<string, string> {
  const key = process.env["ESH3AR_API_KEY"];
  if (!key) throw new Error("set ESH3AR_API_KEY");
  return { Authorization: `Bearer ${key}` };
}

// Problem is what every refusal comes with (RFC 9457).
export interface Problem {
  status: number;
  code: string;
  detail: string;
  permanent: boolean; // whether the same request will be refused again
  oldest_cursor?: string; // of a 410: where to go on from
}

export class Refused extends Error {
  constructor(readonly problem: Problem) {
    super(`${problem.status} ${problem.code}: ${problem.detail}`);
  }
}

// refusal reads the problem of an answer. A proxy in between may have answered something else.
export async function refusal(response: Response): Promise<Refused> {
  const text = await response.text();
  try {
    return new Refused(JSON.parse(text) as Problem);
  } catch {
    const permanent = response.status < 500 && response.status !== 429;
    return new Refused({ status: response.status, code: "unknown", detail: text.slice(0, 200), permanent });
  }
}

// backoff is a random wait in milliseconds, longer with every failure in a row and random over its
// whole length, so that clients that were turned away together do not come back together.
export const backoff = (failures: number): number => Math.random() * Math.min(10_000, 100 * 2 ** failures);
