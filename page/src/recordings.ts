// The recordings of this browser and what happens to them: waiting, sent, transcribed, corrected, kept, forgotten.

import { computed, signal } from "@preact/signals";
import * as keep from "./keep";
import { facts, Failure, key, models, transcribe, type Choice, type Facts, type Model, type Wish } from "./service";
import type { Segment, Word } from "./transcript";

export type State = "waiting" | "sending" | "working" | "live" | "done" | "failed" | "cancelled";

export interface Recording {
  id: string;
  name: string;
  created: number;
  fromMicrophone: boolean;
  choice: Choice;
  state: State;
  /** Share of the bytes that the service has, 0 to 1. */
  sent: number;
  duration_s: number | null;
  /** Where the last segment ended. */
  reached_s: number;
  /** Seconds of sound in a second of the service's time. */
  speed: number | null;
  language: string | null;
  segments: Segment[];
  /** Words of a live phrase that is not over: those that stay, and text that may still change. */
  committed: Word[];
  partial: string;
  lag_s: number | null;
  failure: { code: string; message: string } | null;
}

/** Sounds above this size are transcribed but not kept. */
const MOST_KEPT_BYTES = 300 * 2 ** 20;
const MOST_TRIES = 4;

export const recordings = signal<Recording[]>([]);
export const selectedId = signal<string | null>(null);
export const selected = computed(() => recordings.value.find((each) => each.id === selectedId.value) ?? null);
export const offered = signal<{ facts: Facts | null; models: Model[] }>({ facts: null, models: [] });
/** What a screen reader is told. */
export const announcement = signal("");
/** The page's own trouble, which belongs to no recording. */
export const trouble = signal<Recording["failure"]>(null);

const sounds = new Map<string, Blob>();
/** What waits, the first to be transcribed first. */
let queue: string[] = [];
/** Live sessions whose last words are awaited, and how to wait no longer. */
export const closing = new Map<string, () => void>();
const running = new Map<string, AbortController>();
let onEnd: (recording: Recording) => void = () => {};

/** Tell `listener` of each recording that ended, well or not. */
export function whenEnded(listener: (recording: Recording) => void): void {
  onEnd = listener;
}

export async function start(): Promise<void> {
  await Promise.all([askService(), showKept()]);
}

/** Ask until the service answers: it may be loading, and it may want a key. */
async function askService(): Promise<void> {
  for (let wait_s = 1; ; wait_s = Math.min(2 * wait_s, 15)) {
    try {
      offered.value = { ...offered.value, facts: await facts() };
      offered.value = { ...offered.value, models: await models() };
      if (trouble.value?.code === "unreachable" || trouble.value?.code === "wrong_key") trouble.value = null;
      return;
    } catch (error) {
      if (error instanceof Failure && error.code === "wrong_key") {
        trouble.value = { code: "wrong_key", message: "" };
        await keyChanges();
      } else {
        if (!offered.value.facts) trouble.value = { code: "unreachable", message: "" };
        await sleep(wait_s);
      }
    }
  }
}

function keyChanges(): Promise<void> {
  const before = key.peek();
  return new Promise((resolve) => {
    const end = key.subscribe((now) => {
      if (now !== before) queueMicrotask(() => (end(), resolve()));
    });
  });
}

async function showKept(): Promise<void> {
  try {
    const kept = await keep.keptRecordings();
    recordings.value = [...recordings.value, ...kept];
    selectedId.value ??= kept[0]?.id ?? null;
  } catch {
    // A private window may have no storage: then nothing is remembered.
  }
}

export function newRecording(name: string, choice: Choice, given: Partial<Recording> = {}): Recording {
  const recording: Recording = {
    ...{ id: crypto.randomUUID?.() ?? String(Math.random()), name, created: Date.now(), choice },
    ...{ fromMicrophone: false, state: "waiting", sent: 0, duration_s: null, reached_s: 0, speed: null },
    ...{ language: null, segments: [], committed: [], partial: "", lag_s: null, failure: null },
    ...given,
  };
  recordings.value = [recording, ...recordings.value];
  selectedId.value = recording.id;
  return recording;
}

export function find(id: string): Recording | undefined {
  return recordings.value.find((each) => each.id === id);
}

export function change(id: string, changed: Partial<Recording> | ((now: Recording) => Partial<Recording>)): void {
  recordings.value = recordings.value.map((each) =>
    each.id === id ? { ...each, ...(typeof changed === "function" ? changed(each) : changed) } : each,
  );
}

/** Queue files, the first one first; the first is shown, above those that came with it. */
export function addFiles(files: Iterable<File>, choice: Choice): void {
  const [now, added] = [Date.now(), [] as string[]];
  for (const [at, file] of [...files].entries()) {
    const { id } = newRecording(file.name, choice, { created: now - at / 1000 });
    added.push(id);
    const most = offered.value.facts?.max_body_bytes ?? Infinity;
    if (file.size > most) {
      change(id, { state: "failed", failure: { code: "too_large", message: `${file.size}/${most}` } });
      continue;
    }
    setSound(id, file);
    queue.push(id);
  }
  recordings.value = recordings.value.toSorted((one, other) => other.created - one.created);
  selectedId.value = added[0] ?? selectedId.value;
  void work();
}

export function setSound(id: string, sound: Blob): void {
  sounds.set(id, sound);
  if (sound.size > MOST_KEPT_BYTES) return;
  keep.keepSound(id, sound).catch(() => (trouble.value = { code: "not_kept", message: "" }));
}

export async function soundOf(id: string): Promise<Blob | null> {
  const sound = sounds.get(id) ?? (await keep.keptSound(id).catch(() => undefined));
  if (sound) sounds.set(id, sound);
  return sound ?? null;
}

/** Transcribe what waits, one recording at a time. */
async function work(): Promise<void> {
  if (running.size) return;
  const waiting = find(queue.shift() ?? "");
  if (!waiting) return queue.length ? work() : undefined;
  const abort = new AbortController();
  running.set(waiting.id, abort);
  try {
    await transcribeOne(waiting, abort.signal);
  } finally {
    running.delete(waiting.id);
  }
  void work();
}

async function transcribeOne({ id, choice }: Recording, signal: AbortSignal): Promise<void> {
  const sound = await soundOf(id);
  if (!sound) return ended(id, { state: "failed", failure: { code: "sound_gone", message: "" } });
  for (let [tries, wordTimes] = [1, true]; ; tries++) {
    change(id, { state: "sending", sent: 0, segments: [], reached_s: 0, speed: null, failure: null });
    try {
      return ended(id, await transcribeSound(id, sound, { ...choice, wordTimes }, signal));
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") return ended(id, { state: "cancelled" });
      const failure = error instanceof Failure ? error : new Failure("broke_off", String(error));
      if (wordTimes && failure.code === "unsupported_option" && failure.message.includes("word_timestamps")) {
        wordTimes = false; // not every engine knows them; then words share the time of their segment
        continue;
      }
      if (failure.retryAfter_s === null || tries === MOST_TRIES) {
        return ended(id, { state: "failed", failure: { code: failure.code, message: failure.message } });
      }
      change(id, { state: "waiting" });
      await sleep(Math.min(failure.retryAfter_s, 30), signal);
      if (signal.aborted) return ended(id, { state: "cancelled" });
    }
  }
}

async function transcribeSound(
  id: string,
  sound: Blob,
  wish: Wish,
  signal: AbortSignal,
): Promise<Partial<Recording>> {
  let began = performance.now();
  const listener = {
    onSent(sent: number) {
      began = performance.now();
      change(id, { sent, ...(sent === 1 ? { state: "working" as const } : {}) });
    },
    onStart(duration_s: number | null) {
      change(id, (now) => ({ state: "working", sent: 1, duration_s: duration_s ?? now.duration_s }));
    },
    onSegment(segment: Segment) {
      const seconds = (performance.now() - began) / 1000;
      change(id, (now) => {
        const reached_s = Math.max(now.reached_s, segment.end);
        return { segments: [...now.segments, segment], reached_s, speed: reached_s / seconds };
      });
    },
  };
  const end = await transcribe(sound, wish, listener, signal);
  const { duration_s, processing_s, language } = end;
  return {
    ...{ state: "done", language, duration_s, reached_s: duration_s },
    speed: processing_s ? duration_s / processing_s : null,
  };
}

/** Record how a recording ended, and keep it. */
export function ended(id: string, changed: Partial<Recording>): void {
  change(id, { ...changed, committed: [], partial: "", lag_s: null });
  const recording = find(id);
  if (!recording) return;
  keepNow(recording);
  onEnd(recording);
}

function keepNow(recording: Recording): void {
  keep.keepText(recording).catch(() => (trouble.value = { code: "not_kept", message: "" }));
}

export function correct(id: string, segment: Segment): void {
  change(id, (now) => ({ segments: now.segments.map((each) => (each.id === segment.id ? segment : each)) }));
  const recording = find(id);
  if (recording) keepNow(recording);
}

export function cancel(id: string): void {
  queue = queue.filter((each) => each !== id);
  const abort = running.get(id);
  const giveUp = closing.get(id);
  if (abort) abort.abort();
  else if (giveUp) giveUp();
  else ended(id, { state: "cancelled" });
}

export function retry(id: string, choice: Choice): void {
  change(id, { state: "waiting", failure: null, segments: [], choice });
  queue.push(id);
  void work();
}

export async function forget(id: string): Promise<void> {
  running.get(id)?.abort();
  const at = recordings.value.findIndex((each) => each.id === id);
  recordings.value = recordings.value.filter((each) => each.id !== id);
  if (selectedId.value === id) {
    selectedId.value = (recordings.value[at] ?? recordings.value.at(-1))?.id ?? null;
  }
  sounds.delete(id);
  await keep.forgetKept(id).catch(() => {});
}

export async function forgetAll(): Promise<void> {
  queue = [];
  for (const abort of running.values()) abort.abort();
  recordings.value = [];
  selectedId.value = null;
  sounds.clear();
  await keep.forgetAllKept().catch(() => {});
}

function sleep(seconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => resolve(), { once: true });
  });
}
