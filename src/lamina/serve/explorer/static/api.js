// The server's answers. One that is not ready yet is asked for again, and tells how far the work is.

/** An answer that is an error, in words for people. */
export class Problem extends Error {
  constructor(message, hint, status) {
    super(message);
    this.hint = hint;
    this.status = status;
  }
}

const pause = (milliseconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        reject(signal.reason);
      },
      { once: true },
    );
  });

/** The address of an endpoint; parameters that are not set are left out. */
export function address(endpoint, parameters = {}) {
  const given = Object.entries(parameters).filter(
    ([, value]) => value !== undefined && value !== null && value !== "",
  );
  const query = new URLSearchParams(given.map(([key, value]) => [key, String(value)])).toString();
  return `/explore/api/${endpoint}${query ? `?${query}` : ""}`;
}

async function problem(answer) {
  try {
    const { error } = await answer.json();
    if (error?.message) return new Problem(error.message, error.hint ?? "", answer.status);
  } catch {
    // not JSON: something between this page and the server has answered
  }
  return new Problem(
    `The server answered ${answer.status}.`,
    "Try again; the server's log has the reason.",
    answer.status,
  );
}

const BUSY = new Set([429, 503]);
const MOST_TRIES = 5;

/**
 * Ask the server.
 *
 * @param {string} endpoint
 * @param {object} parameters
 * @param {{signal?: AbortSignal, working?: (work: object) => void}} options `working` is called with what the
 *   server is doing while the answer is not ready
 */
export async function ask(endpoint, parameters = {}, { signal, working } = {}) {
  for (let tries = 0; ;) {
    let answer;
    try {
      answer = await fetch(address(endpoint, parameters), { signal, headers: { Accept: "application/json" } });
    } catch (error) {
      if (error.name === "AbortError" || signal?.aborted) throw error;
      throw new Problem("The server does not answer.", "Check that lamina is still running, then try again.", 0);
    }
    if (answer.status === 202) {
      const { working: work } = await answer.json();
      working?.(work);
      await pause(Math.min(Math.max(work.retry_ms ?? 500, 100), 5000), signal);
      continue;
    }
    if (BUSY.has(answer.status) && ++tries < MOST_TRIES) {
      await pause(Math.min(Number(answer.headers.get("Retry-After")) || 1, 10) * 1000, signal);
      continue;
    }
    if (!answer.ok) throw await problem(answer);
    return answer.json();
  }
}

/** Whether an error only says that nobody waits for the answer any more. */
export const isAbort = (error) => error?.name === "AbortError";
