// The text of a recording as a file: SRT, WebVTT, plain text, and the service's JSON.

import { length, plainText, timedWords, type Segment, type Word } from "./transcript";

export const FORMATS = ["srt", "vtt", "txt", "json"] as const;
export type DownloadFormat = (typeof FORMATS)[number];

const MEDIA_TYPES: Record<DownloadFormat, string> = {
  srt: "application/x-subrip",
  vtt: "text/vtt",
  txt: "text/plain",
  json: "application/json",
};

// The limits that the service's own subtitles keep.
const MAX_LINE = 42;
const MAX_CUE_S = 7;
const MIN_CUE_S = 1;
const SENTENCE_END = /[.?!…।॥]$/;

export interface Written {
  segments: Segment[];
  language: string | null;
  duration_s: number | null;
}

interface Cue {
  start: number;
  end: number;
  lines: string[];
}

export function fileOf(format: DownloadFormat, written: Written): Blob {
  return new Blob([textOf(format, written)], { type: `${MEDIA_TYPES[format]};charset=utf-8` });
}

function textOf(format: DownloadFormat, { segments, language, duration_s }: Written): string {
  switch (format) {
    case "srt":
      return cues(segments)
        .map((cue, at) => `${at + 1}\n${span(cue, ",")}\n${cue.lines.join("\n")}\n`)
        .join("\n");
    case "vtt":
      return `WEBVTT\n\n${cues(segments)
        .map((cue) => `${span(cue, ".")}\n${cue.lines.map(escaped).join("\n")}\n`)
        .join("\n")}`;
    case "txt":
      return `${plainText(segments)}\n`;
    case "json": {
      const text = plainText(segments).replaceAll("\n", " ");
      return `${JSON.stringify({ text, language, duration_s, segments }, null, 2)}\n`;
    }
  }
}

/** Cues of at most two lines and seven seconds, broken after sentences where there are any. */
function cues(segments: Segment[]): Cue[] {
  const found: Cue[] = [];
  for (const segment of segments) {
    let taken: Word[] = [];
    const give = () => {
      if (taken.length)
        found.push({ start: taken[0]!.start, end: taken.at(-1)!.end, lines: lines(taken.map((each) => each.word)) });
      taken = [];
    };
    for (const word of timedWords(segment)) {
      const first = taken[0]?.start ?? word.start;
      const grown = [...taken, word].map((each) => each.word);
      if (taken.length && (word.end - first > MAX_CUE_S || !fits(grown))) give();
      taken.push(word);
      if (SENTENCE_END.test(word.word)) give();
    }
    give();
  }
  return found.map((cue, at) => {
    const next = found[at + 1]?.start ?? Infinity;
    const end = Math.max(cue.end, Math.min(cue.start + MIN_CUE_S, next));
    return { ...cue, end: Math.max(cue.start + 0.001, Math.min(end, Math.max(next, cue.start + 0.001))) };
  });
}

function fits(words: string[]): boolean {
  return words.length === 1 || lines(words).every((line) => length(line) <= MAX_LINE);
}

/** One line, or two of lengths as even as possible. */
function lines(words: string[]): string[] {
  const whole = words.join(" ");
  if (length(whole) <= MAX_LINE || words.length === 1) return [whole];
  let best = [whole];
  let least = Infinity;
  for (let at = 1; at < words.length; at++) {
    const pair = [words.slice(0, at).join(" "), words.slice(at).join(" ")];
    const longest = Math.max(...pair.map(length));
    if (longest < least) [best, least] = [pair, longest];
  }
  return best;
}

function span(cue: Cue, point: string): string {
  return `${clock(cue.start, point)} --> ${clock(cue.end, point)}`;
}

function clock(seconds: number, point: string): string {
  const ms = Math.round(seconds * 1000);
  const part = (value: number, digits: number) => String(value).padStart(digits, "0");
  const [hours, minutes, rest] = [Math.floor(ms / 3_600_000), Math.floor(ms / 60_000) % 60, Math.floor(ms / 1000) % 60];
  return `${part(hours, 2)}:${part(minutes, 2)}:${part(rest, 2)}${point}${part(ms % 1000, 3)}`;
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

/** Hand a file to the browser's downloads. */
export function download(name: string, content: Blob): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
