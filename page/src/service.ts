// Calls of the service: what it offers, and a recording in for segments out while they are decoded.

import { signal } from "@preact/signals";
import type { Segment } from "./transcript";

export interface Facts {
  languages: string[];
  max_body_bytes: number;
  docs: string | null;
  live: string | null;
}

export interface Model {
  /** Value of the option `adapter`; empty for the served model. */
  adapter: string;
  name: string;
  kind: "served" | "base" | "adapter";
}

export interface Choice {
  adapter: string;
  language: string;
  task: "transcribe" | "translate";
}

export interface Wish extends Choice {
  wordTimes: boolean;
}

/** An error of the service or on the way to it. The code is for the page, the message for people. */
export class Failure extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly retryAfter_s: number | null = null,
  ) {
    super(message);
  }
}

const KEY_PLACE = "shrota-key";
/** The service's key, where it demands one. */
export const key = signal(keptKey());

function keptKey(): string {
  try {
    return localStorage.getItem(KEY_PLACE) ?? "";
  } catch {
    return "";
  }
}

export function useKey(given: string): void {
  key.value = given;
  try {
    localStorage.setItem(KEY_PLACE, given);
  } catch {
    // Without storage it holds until the page is closed.
  }
}

const SERVED = "whisper-1";
const BASE_ALONE = "none";

export function address(path: string, query: Record<string, string> = {}): URL {
  const url = new URL(path.replace(/^\//, ""), document.baseURI);
  for (const [name, value] of Object.entries(query)) if (value) url.searchParams.set(name, value);
  return url;
}

function authorization(): Record<string, string> {
  return key.value ? { Authorization: `Bearer ${key.value}` } : {};
}

async function read<T>(path: string): Promise<T> {
  const answer = await fetch(address(path), { headers: { Accept: "application/json", ...authorization() } });
  if (answer.status === 401) throw new Failure("wrong_key", "");
  if (!answer.ok) throw new Failure("unreachable", `${path}: ${answer.status}`);
  return (await answer.json()) as T;
}

export function facts(): Promise<Facts> {
  return read<Facts>("");
}

/** The models that may be chosen: the served one first, then the other adapters, then the base alone. */
export async function models(): Promise<Model[]> {
  const { data } = await read<{ data: { id: string }[] }>("v1/models");
  const { adapters } = await read<{ adapters: Adapter[] }>("adapters").catch((error: unknown) => {
    // Not every key may list adapters.
    if (error instanceof Failure && error.code === "wrong_key") return { adapters: guessed(data) };
    throw error;
  });
  const served = adapters.find((each) => each.served);
  const aliases = adapters.map((each) => each.alias);
  const found: Model[] = [{ adapter: "", name: served?.name ?? "", kind: "served" }];
  for (const { id } of data) {
    if (id === SERVED || id === served?.name || aliases.includes(id)) continue;
    const isAdapter = adapters.some((each) => each.name === id);
    found.push({ adapter: isAdapter ? id : BASE_ALONE, name: id, kind: isAdapter ? "adapter" : "base" });
  }
  // Without an adapter, the served model is the base already.
  return served ? found : found.filter((each) => each.kind !== "base");
}

interface Adapter {
  name: string;
  alias: string | null;
  served: boolean;
}

/** Names of base models have a slash, those of adapters never. */
function guessed(data: { id: string }[]): Adapter[] {
  const names = data.map((each) => each.id).filter((id) => id !== SERVED && !id.includes("/"));
  return names.map((name, at) => ({ name, alias: null, served: at === 0 }));
}

interface Listener {
  onSent(fraction: number): void;
  onStart(duration_s: number | null): void;
  onSegment(segment: Segment): void;
}

export interface Ended {
  language: string | null;
  duration_s: number;
  processing_s: number | null;
}

type StreamEvent =
  | { type: "start"; duration_s: number | null }
  | ({ type: "segment" } & Segment)
  | ({ type: "end" } & Ended)
  | { type: "error"; error: { code: string; message: string } };

/** Transcribe a recording; the listener hears of each step, and `signal` ends it. */
export function transcribe(sound: Blob, wish: Wish, listener: Listener, signal: AbortSignal): Promise<Ended> {
  // XMLHttpRequest tells how much is sent, which fetch does not.
  const request = new XMLHttpRequest();
  const { promise, resolve, reject } = withResolvers<Ended>();
  let [nRead, ended] = [0, null as Ended | null];
  const onLines = () => {
    if (request.status !== 200) return;
    const upTo = request.responseText.lastIndexOf("\n") + 1;
    for (const line of request.responseText.slice(nRead, upTo).split("\n").filter(Boolean)) {
      const event = JSON.parse(line) as StreamEvent;
      if (event.type === "start") listener.onStart(event.duration_s);
      else if (event.type === "end") ended = event;
      else if (event.type === "error") reject(new Failure(event.error.code, event.error.message));
      else {
        const { type: _, ...segment } = event;
        listener.onSegment(segment);
      }
    }
    nRead = Math.max(nRead, upTo);
  };
  request.upload.onprogress = (event) => listener.onSent(event.total ? event.loaded / event.total : 0);
  request.upload.onload = () => listener.onSent(1);
  request.onprogress = onLines;
  request.onerror = () => reject(new Failure(request.status === 200 ? "broke_off" : "unreachable", ""));
  request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
  request.onload = () => {
    if (request.status !== 200) return reject(failureOf(request));
    onLines();
    if (ended) resolve(ended);
    else reject(new Failure("broke_off", ""));
  };
  const { adapter, language, task, wordTimes } = wish;
  request.open("POST", address("invocations", { adapter, language, task, word_timestamps: String(wordTimes) }));
  request.setRequestHeader("Accept", "application/x-ndjson");
  for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
  // The service recognises formats by their bytes; what browsers guess from a file's name is often wrong.
  request.setRequestHeader("Content-Type", "application/octet-stream");
  signal.addEventListener("abort", () => request.abort(), { once: true });
  request.send(sound);
  return promise;
}

function failureOf(request: XMLHttpRequest): Failure {
  const after_s = Number(request.getResponseHeader("Retry-After")) || null;
  try {
    const { error } = JSON.parse(request.responseText) as { error: { code: string; message: string } };
    return new Failure(error.code, error.message, after_s);
  } catch {
    return new Failure("unreachable", `status ${request.status}`, after_s);
  }
}

function withResolvers<T>() {
  let resolve!: (value: T) => void;
  let reject!: (reason: unknown) => void;
  const promise = new Promise<T>((yes, no) => ([resolve, reject] = [yes, no]));
  return { promise, resolve, reject };
}
