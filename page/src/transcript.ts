// Segments and words of a recording, as the service's JSON has them, and what a correction does to them.

export interface Word {
  word: string;
  start: number;
  end: number;
  probability?: number;
}

export interface Segment {
  id: number;
  start: number;
  end: number;
  text: string;
  language?: string;
  words?: Word[];
  edited?: boolean;
}

const graphemes = new Intl.Segmenter(undefined, { granularity: "grapheme" });

/** The number of letters a reader sees: क्षि is one, though four code points. */
export function length(text: string): number {
  return [...graphemes.segment(text)].length;
}

/** The words of a segment with their times; where the service gave none, each letter takes the same time. */
export function timedWords(segment: Segment): Word[] {
  if (segment.words?.length) return segment.words;
  return spread(segment.text.split(/\s+/).filter(Boolean), segment.start, segment.end);
}

function spread(texts: string[], start: number, end: number): Word[] {
  const lengths = texts.map(length);
  const total = lengths.reduce((sum, each) => sum + each, 0) || 1;
  let before = 0;
  return texts.map((word, index) => {
    const from = start + ((end - start) * before) / total;
    before += lengths[index]!;
    return { word, start: round(from), end: round(start + ((end - start) * before) / total) };
  });
}

/** The segment with a corrected text: words that stayed keep their times, new ones share the time between them. */
export function corrected(segment: Segment, text: string): Segment {
  const texts = text.split(/\s+/).filter(Boolean);
  const old = timedWords(segment);
  const kept = commonWords(old.map((each) => each.word), texts);
  const words: Word[] = [];
  let [oldFrom, newFrom] = [0, 0];
  for (const [oldAt, newAt] of [...kept, [old.length, texts.length] as const]) {
    const [gone, come] = [old.slice(oldFrom, oldAt), texts.slice(newFrom, newAt)];
    const start = gone[0]?.start ?? words.at(-1)?.end ?? segment.start;
    const end = gone.at(-1)?.end ?? old[oldAt]?.start ?? segment.end;
    words.push(...spread(come, start, Math.max(start, end)));
    if (oldAt < old.length) words.push(old[oldAt]!);
    [oldFrom, newFrom] = [oldAt + 1, newAt + 1];
  }
  return { ...segment, text: texts.join(" "), words, edited: true };
}

/** Pairs of places at which two texts have the same word, in order and as many as possible. */
function commonWords(old: string[], now: string[]): (readonly [number, number])[] {
  const most = Array.from({ length: old.length + 1 }, () => new Uint16Array(now.length + 1));
  for (let i = old.length - 1; i >= 0; i--)
    for (let j = now.length - 1; j >= 0; j--)
      most[i]![j] = old[i] === now[j] ? most[i + 1]![j + 1]! + 1 : Math.max(most[i + 1]![j]!, most[i]![j + 1]!);
  const pairs: (readonly [number, number])[] = [];
  for (let i = 0, j = 0; i < old.length && j < now.length; ) {
    if (old[i] === now[j]) pairs.push([i++, j++]);
    else if (most[i + 1]![j]! >= most[i]![j + 1]!) i++;
    else j++;
  }
  return pairs;
}

export function plainText(segments: Segment[]): string {
  return segments.map((each) => each.text.trim()).filter(Boolean).join("\n");
}

function round(seconds: number): number {
  return Math.round(seconds * 1000) / 1000;
}
