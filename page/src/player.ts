// The sound of the shown recording: one wavesurfer.js instance, which others start, stop and read the time of.

import { signal } from "@preact/signals";
import WaveSurfer from "wavesurfer.js";
import Regions from "wavesurfer.js/dist/plugins/regions.esm.js";
import type { Segment } from "./transcript";

/** Where the sound is, in seconds; null while nothing was played. */
export const playhead = signal<number | null>(null);
export const isPlaying = signal(false);
export const duration_s = signal(0);
export const playerState = signal<"none" | "loading" | "ready" | "unplayable" | "gone">("none");

/** Longer sounds are played without being drawn: the browser would decode them into memory as a whole. */
const MOST_DRAWN_BYTES = 150 * 2 ** 20;

let surfer: WaveSurfer | null = null;
let regions: ReturnType<typeof Regions.create> | null = null;

function colour(name: string): string {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function palette() {
  return { waveColor: colour("--wave"), progressColor: colour("--accent"), cursorColor: colour("--accent") };
}

/** Draw and load a sound in `container`; the answer takes it away again. */
export function show(container: HTMLElement, sound: Promise<Blob | null>): () => void {
  const nonce = document.querySelector<HTMLMetaElement>('meta[property="csp-nonce"]')?.nonce;
  regions = Regions.create();
  const own = WaveSurfer.create({
    ...{ container, height: 72, barWidth: 2, barGap: 2, barRadius: 2, cursorWidth: 2, normalize: true },
    ...{ dragToSeek: true, cspNonce: nonce, plugins: [regions] },
    ...palette(),
  });
  surfer = own;
  [playhead.value, isPlaying.value, duration_s.value, playerState.value] = [null, false, 0, "loading"];
  own.on("ready", (seconds) => {
    duration_s.value = seconds;
    playerState.value = "ready";
  });
  own.on("timeupdate", (seconds) => (playhead.value = seconds));
  own.on("play", () => (isPlaying.value = true));
  own.on("pause", () => (isPlaying.value = false));
  own.on("error", () => (playerState.value = "unplayable"));
  void sound.then(async (blob) => {
    if (surfer !== own) return;
    if (!blob) return (playerState.value = "gone");
    const isDrawn = blob.size <= MOST_DRAWN_BYTES;
    try {
      await (isDrawn ? own.loadBlob(blob) : own.loadBlob(blob, [[0]], await secondsOf(blob)));
    } catch {
      if (surfer === own) playerState.value = "unplayable";
    }
  });
  return () => {
    own.destroy();
    if (surfer === own) [surfer, regions, playerState.value] = [null, null, "none"];
  };
}

function secondsOf(blob: Blob): Promise<number> {
  const probe = new Audio();
  probe.preload = "metadata";
  probe.src = URL.createObjectURL(blob);
  return new Promise((resolve, reject) => {
    probe.onloadedmetadata = () => resolve(probe.duration);
    probe.onerror = () => reject(new Error("unplayable"));
  }).finally(() => URL.revokeObjectURL(probe.src)) as Promise<number>;
}

/** Mark the segments in the waveform; a change redraws only what changed. */
export function mark(segments: Segment[]): void {
  if (!regions || playerState.value !== "ready") return;
  const [even, odd] = [colour("--region"), colour("--region-other")];
  const marked = new Map(regions.getRegions().map((each) => [each.id, each]));
  for (const { id, start, end } of segments) {
    const color = id % 2 ? odd : even;
    const known = marked.get(String(id));
    if (known) known.setOptions({ start, end, color });
    else regions.addRegion({ id: String(id), start, end, color, drag: false, resize: false });
    marked.delete(String(id));
  }
  for (const gone of marked.values()) gone.remove();
}

export function repaint(): void {
  surfer?.setOptions(palette());
}

/** Play from a time on, to `end` where one is given. */
export function play(start: number, end?: number): void {
  if (playerState.value === "ready") void surfer?.play(start, end).catch(() => {});
}

export function playPause(): void {
  if (playerState.value === "ready") void surfer?.playPause().catch(() => {});
}

export function seek(seconds: number): void {
  surfer?.setTime(Math.max(0, Math.min(seconds, duration_s.value)));
}

export function rest(): void {
  surfer?.pause();
}
