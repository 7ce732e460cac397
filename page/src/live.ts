// Speech from the microphone, sent while it is spoken; a lost connection is resumed, and the sound is kept.

import { signal } from "@preact/signals";
import { openMicrophone, wav, type Microphone } from "./microphone";
import { change, ended, find, newRecording, offered, retry, setSound, trouble } from "./recordings";
import { address, Failure, type Choice } from "./service";
import type { Segment, Word } from "./transcript";

const RESUME_WITHIN_S = 30;
const CLOSE_WITHIN_S = 20;

/** The recording that is being spoken. */
export const liveId = signal<string | null>(null);
/** Loudness of the last 100 ms, 0 to 1. */
export const level = signal(0);

type Message =
  | { type: "session"; token: string; received_bytes?: number }
  | { type: "words"; seq: number; committed: Word[]; partial: string; lag_s: number }
  | { type: "phrase"; seq: number; segment: Segment; lag_s?: number }
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
      socket?.send(samples);
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
    change(id, { duration_s: chunks.reduce((sum, each) => sum + each.length, 0) / microphone.rate_hz });
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

  /** Samples are already in `chunks`; send what the service does not have. */
  send(_: Int16Array): void {
    if (this.socket?.readyState !== WebSocket.OPEN || !this.token) return;
    while (this.nSent < this.chunks.length) this.socket.send(this.chunks[this.nSent++]! as BufferSource);
    if (this.isClosing) this.say("close");
  }

  async close(): Promise<void> {
    this.isClosing = true;
    if (this.socket?.readyState === WebSocket.OPEN && this.token) this.send(new Int16Array());
    const late = setTimeout(() => this.finish("broke_off"), CLOSE_WITHIN_S * 1000);
    await this.over;
    clearTimeout(late);
  }

  private say(type: "close" | "finalize" | "keepalive"): void {
    this.socket?.send(JSON.stringify({ type }));
  }

  private connect(): void {
    const { adapter, language, task } = this.choice;
    const own = { adapter, language, task, format: "pcm_s16le", rate: String(this.rate_hz) };
    const url = address(this.path, { ...own, ...(this.token ? { token: this.token, after: String(this.seq) } : {}) });
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url);
    this.socket = socket;
    socket.onmessage = ({ data }: MessageEvent<string>) => this.take(JSON.parse(data) as Message);
    socket.onclose = () => this.lost();
  }

  /** The connection ended: try again while the service still keeps the session. */
  private lost(): void {
    if (this.isOver) return;
    const now = performance.now();
    this.lostAt_ms ??= now;
    if (!this.token || now - this.lostAt_ms > RESUME_WITHIN_S * 1000) return this.finish("lost_live");
    setTimeout(() => this.isOver || this.connect(), 500);
  }

  private take(message: Message): void {
    switch (message.type) {
      case "session":
        this.token = message.token;
        this.lostAt_ms = null;
        this.resend(message.received_bytes);
        return this.send(new Int16Array());
      case "words":
        this.seq = message.seq;
        return change(this.id, (now) => ({
          committed: [...now.committed, ...message.committed.map((each) => each.word)],
          partial: message.partial,
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

  /** After a lost connection, go on behind the sound that arrived. */
  private resend(received_bytes: number | undefined): void {
    if (received_bytes === undefined) return;
    let nBytes = 0;
    let at = 0;
    while (at < this.nSent && nBytes + this.chunks[at]!.byteLength <= received_bytes) nBytes += this.chunks[at++]!.byteLength;
    this.nSent = at;
  }

  private finish(code?: string, message = ""): void {
    if (this.isOver) return;
    this.isOver = true;
    this.socket?.close();
    const said = find(this.id);
    const failure = code === undefined ? null : { code, message };
    ended(this.id, { state: failure && !said?.segments.length ? "failed" : "done", failure });
    if (failure) stopSpeaking();
    this.end();
  }
}
