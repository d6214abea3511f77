// Speaks to the coordinator: fetches, and reads the stream of events. A token goes into a header,
// which EventSource cannot send: the stream is read with fetch.

const TOKEN = "quorate-token";
const RETRY_MIN_MS = 500;
const RETRY_MAX_MS = 10_000;
// The coordinator says something every 15 s: one that is silent for longer is out of reach.
const SILENCE_MAX_MS = 40_000;

export class Unauthorized extends Error {}
export class Missing extends Error {}

export function token() {
  return sessionStorage.getItem(TOKEN) ?? "";
}

export function keepToken(value) {
  if (value) sessionStorage.setItem(TOKEN, value);
  else sessionStorage.removeItem(TOKEN);
}

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (token()) headers.Authorization = `Bearer ${token()}`;
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  if (response.status === 401) throw new Unauthorized();
  return response;
}

export async function fetchJson(path) {
  const response = await request(path);
  if (response.status === 404) throw new Missing();
  if (!response.ok) throw new Error((await response.text()).trim());
  return response.json();
}

export async function act(content) {
  const response = await request("act", {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Quorate": "act" },
    body: JSON.stringify(content),
  });
  if (!response.ok) throw new Error((await response.text()).trim());
}

/** Yields the events of a text/event-stream, as [name, data]. */
export async function* events(reader) {
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += decoder.decode(value, { stream: true });
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      let name = "";
      let data = "";
      for (const line of block.split("\n")) {
        if (line.startsWith("event: ")) name = line.slice(7);
        else if (line.startsWith("data: ")) data += line.slice(6);
      }
      yield [name, data];
    }
  }
}

/** Follows one run until it is told to stop; connects again whenever the stream ends. */
export class Stream {
  constructor(runId, handlers) {
    this.runId = runId;
    this.handlers = handlers;
    this.abort = new AbortController();
    this.follow();
  }

  stop() {
    this.abort.abort();
  }

  async follow() {
    let wait = RETRY_MIN_MS;
    while (!this.abort.signal.aborted) {
      try {
        await this.read(() => (wait = RETRY_MIN_MS));
      } catch (error) {
        if (error instanceof Unauthorized) {
          this.stop();
          this.handlers.unauthorized();
        }
      }
      if (this.abort.signal.aborted) return;
      this.handlers.link("lost");
      await new Promise((resolve) => setTimeout(resolve, wait * (0.75 + Math.random() / 2)));
      wait = Math.min(wait * 2, RETRY_MAX_MS);
    }
  }

  async read(connected) {
    const silent = new AbortController();
    const signal = AbortSignal.any([this.abort.signal, silent.signal]);
    const response = await request(`events?run=${encodeURIComponent(this.runId)}`, { signal });
    if (!response.ok) throw new Error(response.statusText);
    connected();
    this.handlers.link("live");
    let timer = setTimeout(() => silent.abort(), SILENCE_MAX_MS);
    try {
      for await (const [name, data] of events(response.body.getReader())) {
        clearTimeout(timer);
        timer = setTimeout(() => silent.abort(), SILENCE_MAX_MS);
        if (name) this.handlers.event(name, data);
      }
    } finally {
      clearTimeout(timer);
    }
  }
}
