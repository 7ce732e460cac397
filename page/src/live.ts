// Speech from the microphone, sent while it is spoken; a lost connection is resumed, and the sound is kept.

import { signal } from "@preact/signals";
import { openMicrophone, wav, type Microphone } from "./microphone";
import { change, closing, ended, find, newRecording, offered, retry, setSound, trouble, type Recording } from "./recordings";
import { address, Failure, key, type Choice } from "./service";
import type { Segment, Word } from "./transcript";

const RESUME_WITHIN_S = 30;

/** The recording that is being spoken. */
export const liveId = signal<string | null>(null);
/** Loudness of the last 100 ms, 0 to 1. */
export const level = signal(0);

type Message =
  | { type: "session"; token: string; received_bytes: number }
  | { type: "words"; seq: number; committed: Word[]; partial: string; lag_s: number }
  | { type: "phrase"; seq: number; segment: Segment }
  | { type: "error"; code: string; message: string }
  | { type: "closed" };

let stop: (() => void) | null = null;

export async function startSpeaking(choice: Choice, name: string): Promise<void> {
  if (liveId.value) return;
  const chunks: Int16Array[] = [];
  let socket: LiveSocket | null = null;
  liveId.value = "opening";
  let isWanted = true;
  stop = () => (isWanted = false);
  let microphone: Microphone;
  try {
    microphone = await openMicrophone((samples) => {
      chunks.push(samples);
      level.value = samples.reduce((most, each) => Math.max(most, Math.abs(each)), 0) / 32768;
      socket?.send();
    });
  } catch (error) {
    liveId.value = null;
    trouble.value = error instanceof Failure ? error : { code: "no_microphone", message: String(error) };
    return;
  }
  trouble.value = null;
  const { id } = newRecording(name, choice, { fromMicrophone: true, state: "live" });
  liveId.value = id;
  const path = offered.value.facts?.live ?? null;
  if (path) socket = new LiveSocket(id, path, choice, microphone.rate_hz, chunks);
  const finish = async () => {
    stop = null;
    await microphone.close();
    level.value = 0;
    liveId.value = null;
    const sound = wav(chunks, microphone.rate_hz);
    setSound(id, sound);
    const duration_s = chunks.reduce((sum, each) => sum + each.length, 0) / microphone.rate_hz;
    change(id, { duration_s, state: "working", sent: 1 });
    if (socket) await socket.close();
    else retry(id, choice); // a service without live speech takes the recording as a file
  };
  if (isWanted) stop = () => void finish();
  else await finish();
}

export function stopSpeaking(): void {
  stop?.();
}

/** A session of the service that outlives its connection. */
class LiveSocket {
  private socket: WebSocket | null = null;
  private token = "";
  /** Whether this connection has told what sound has arrived. */
  private isGreeted = false;
  private seq = 0;
  private nSent = 0;
  private isClosing = false;
  private lostAt_ms: number | null = null;
  private isOver = false;
  private readonly over: Promise<void>;
  private end = () => {};

  constructor(
    private readonly id: string,
    private readonly path: string,
    private readonly choice: Choice,
    private readonly rate_hz: number,
    private readonly chunks: Int16Array[],
  ) {
    this.over = new Promise((resolve) => (this.end = resolve));
    this.connect();
  }

  /** Send what the service does not have yet of the chunks. */
  send(): void {
    if (this.socket?.readyState !== WebSocket.OPEN || !this.isGreeted) return;
    while (this.nSent < this.chunks.length) this.socket.send(this.chunks[this.nSent++]! as BufferSource);
    if (this.isClosing) this.say("close");
  }

  async close(): Promise<void> {
    this.isClosing = true;
    this.send();
    closing.set(this.id, () => this.finish("cancelled"));
    await this.over;
    closing.delete(this.id);
  }

  private say(type: "close" | "finalize" | "keepalive"): void {
    this.socket?.send(JSON.stringify({ type }));
  }

  private connect(): void {
    const { adapter, language, task } = this.choice;
    const own = { adapter, language, task, format: "pcm_s16le", rate: String(this.rate_hz) };
    const url = address(this.path, { ...own, ...(this.token ? { token: this.token, after: String(this.seq) } : {}) });
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    // A page can set no header on a socket, so the key travels as a subprotocol.
    const socket = new WebSocket(url, key.value ? ["token", key.value] : []);
    this.socket = socket;
    socket.onmessage = ({ data }: MessageEvent<string>) => this.take(JSON.parse(data) as Message);
    socket.onclose = () => this.lost();
  }

  /** The connection ended: try again while the service still keeps the session. */
  private lost(): void {
    if (this.isOver) return;
    const now = performance.now();
    this.lostAt_ms ??= now;
    this.isGreeted = false;
    if (!this.token || now - this.lostAt_ms > RESUME_WITHIN_S * 1000) return this.finish("lost_live");
    setTimeout(() => this.isOver || this.connect(), 500);
  }

  private take(message: Message): void {
    switch (message.type) {
      case "session":
        this.token = message.token;
        this.lostAt_ms = null;
        this.isGreeted = true;
        this.goOnBehind(message.received_bytes);
        return this.send();
      case "words":
        this.seq = message.seq;
        return change(this.id, (now) => ({
          committed: [...now.committed, ...message.committed],
          partial: message.partial,
          reached_s: message.committed.at(-1)?.end ?? now.reached_s,
          lag_s: message.lag_s,
        }));
      case "phrase":
        this.seq = message.seq;
        return change(this.id, (now) => ({
          segments: [...now.segments.filter((each) => each.id !== message.segment.id), message.segment],
          language: message.segment.language ?? now.language,
          ...{ committed: [], partial: "" },
        }));
      case "error":
        return this.finish(message.code, message.message);
      case "closed":
        return this.finish();
    }
  }

  /** The connection is new: the next chunk is the first one that has not arrived. Chunks arrive as a whole. */
  private goOnBehind(received_bytes: number): void {
    this.nSent = 0;
    for (let nBytes = 0; nBytes < received_bytes && this.nSent < this.chunks.length; this.nSent++) {
      nBytes += this.chunks[this.nSent]!.byteLength;
    }
  }

  private finish(code?: string, message = ""): void {
    if (this.isOver) return;
    this.isOver = true;
    this.socket?.close();
    const isWhole = code === undefined;
    const isWanted = code !== "cancelled";
    const failure = isWhole || !isWanted ? null : { code, message };
    const segments = !isWhole ? saved(find(this.id)) : (find(this.id)?.segments ?? []);
    const state = isWhole || segments.length ? "done" : isWanted ? "failed" : "cancelled";
    ended(this.id, { state, segments, failure });
    if (failure) stopSpeaking();
    this.end();
  }
}

/** What a session that broke off has said: its phrases, and the committed words of the last one. */
function saved(recording: Recording | undefined): Segment[] {
  if (!recording) return [];
  const { segments, committed } = recording;
  if (!committed.length) return segments;
  const id = Math.max(-1, ...segments.map((each) => each.id)) + 1;
  const [start, end] = [committed[0]!.start, committed.at(-1)!.end];
  return [...segments, { id, start, end, text: committed.map((each) => each.word).join(" "), words: committed }];
}
