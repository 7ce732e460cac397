// The text: segments of words that play their sound, each segment to be corrected, and live words as they come.

import { useSignal, useSignalEffect } from "@preact/signals";
import { memo } from "preact/compat";
import { useEffect, useRef } from "preact/hooks";
import * as player from "../player";
import { clock, preferences, t } from "../preferences";
import { correct, type Recording } from "../recordings";
import { corrected, timedWords, type Segment, type Word } from "../transcript";
import * as icons from "./icons";

export function Transcript({ recording }: { recording: Recording }) {
  const { id, state, segments, committed, partial } = recording;
  const text = useRef<HTMLDivElement>(null);
  useHeardWord(text, segments);
  const lang = recording.choice.task === "translate" ? "en" : (recording.language ?? undefined);
  const isEmpty = !segments.length && !committed.length && !partial;
  return (
    <div class="text" ref={text} lang={lang} id="text" tabIndex={-1} aria-label={t.value.transcript} role="region">
      {segments.map((segment) => (
        <Passage key={segment.id} id={id} segment={segment} canEdit={state !== "live"} language={preferences.value.language} />
      ))}
      {(state === "live" || committed.length > 0) && <Open committed={committed} partial={partial} />}
      {isEmpty && <Empty recording={recording} />}
    </div>
  );
}

function Empty({ recording: { state, language } }: { recording: Recording }) {
  const said: Partial<Record<Recording["state"], string>> = {
    ...{ waiting: t.value.waitingText, sending: t.value.firstWords, working: t.value.firstWords },
    ...{ live: t.value.listening, done: t.value.noSpeech },
  };
  return said[state] ? (
    <p class="empty-text" lang={preferences.value.language} data-language={language}>
      {said[state]}
    </p>
  ) : null;
}

/** The phrase that is being spoken. Committed words are read out; those that may change are not. */
function Open({ committed, partial }: { committed: Word[]; partial: string }) {
  return (
    <p class={committed.length || partial ? "open-phrase" : "open-phrase silent"}>
      <span class="committed" role="log" aria-live="polite" aria-relevant="additions" aria-atomic="false">
        {committed.map((word, at) => (
          <span key={at}>{word.word} </span>
        ))}
      </span>
      <span class="partial" aria-hidden="true">
        {partial}
      </span>
    </p>
  );
}

interface PassageProps {
  id: string;
  segment: Segment;
  canEdit: boolean;
  /** Only so that a change of the page's language draws it anew. */
  language: string;
}

const Passage = memo(function Passage({ id, segment, canEdit }: PassageProps) {
  const isEditing = useSignal(false);
  const pencil = useRef<HTMLButtonElement>(null);
  const time = clock(segment.start);
  const leave = (text: string | null) => {
    isEditing.value = false;
    if (text !== null && text.trim() !== segment.text.trim()) correct(id, corrected(segment, text));
    requestAnimationFrame(() => pencil.current?.focus());
  };
  return (
    <div class={segment.edited ? "passage edited" : "passage"} data-segment={segment.id}>
      <button
        type="button"
        class="time"
        aria-label={t.value.playFrom(time)}
        onClick={() => player.play(segment.start, segment.end)}
      >
        {time}
      </button>
      {isEditing.value ? (
        <Editor text={segment.text} leave={leave} />
      ) : (
        <p class="words" onDblClick={() => canEdit && (isEditing.value = true)}>
          <Words segment={segment} />
          {segment.edited && <span class="mark">{t.value.edited}</span>}
        </p>
      )}
      {canEdit && !isEditing.value && (
        <button
          ref={pencil}
          type="button"
          class="quiet icon-only"
          aria-label={t.value.edit(time)}
          onClick={() => (isEditing.value = true)}
        >
          <icons.Pencil />
        </button>
      )}
    </div>
  );
});

/** One stop of the Tab key for a segment: arrows move between its words, Enter plays from one. */
function Words({ segment }: { segment: Segment }) {
  const words = timedWords(segment);
  const hear = (word: Word) => player.play(word.start, Math.max(segment.end, word.end));
  const press = (event: KeyboardEvent, word: Word) => {
    const here = event.currentTarget as HTMLElement;
    const siblings = [...here.closest(".words")!.querySelectorAll<HTMLElement>(".word")];
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Enter" || event.key === " ") hear(word);
    else if (step) siblings[siblings.indexOf(here) + step]?.focus();
    else return;
    event.preventDefault();
  };
  return (
    <>
      {words.map((word, at) => (
        <span key={at}>
          <span
            class="word"
            role="button"
            tabIndex={at ? -1 : 0}
            data-word={at}
            onClick={() => getSelection()?.isCollapsed !== false && hear(word)}
            onKeyDown={(event) => press(event, word)}
          >
            {word.word}
          </span>{" "}
        </span>
      ))}
    </>
  );
}

function Editor({ text, leave }: { text: string; leave: (text: string | null) => void }) {
  const field = useRef<HTMLTextAreaElement>(null);
  const grow = () => {
    field.current!.style.height = "auto";
    field.current!.style.height = `${field.current!.scrollHeight + 2}px`;
  };
  useEffect(() => {
    grow();
    field.current!.focus();
  }, []);
  const press = (event: KeyboardEvent) => {
    if (event.key === "Escape") leave(null);
    else if (event.key === "Enter" && !event.isComposing) leave(field.current!.value);
    else return;
    event.preventDefault();
  };
  return (
    <div class="editor">
      <textarea ref={field} rows={1} aria-label={t.value.editLabel} onInput={grow} onKeyDown={press}>
        {text}
      </textarea>
      <div class="editor-actions">
        <button type="button" class="primary" onClick={() => leave(field.current!.value)}>
          {t.value.save}
        </button>
        <button type="button" class="quiet" onClick={() => leave(null)}>
          {t.value.leave}
        </button>
      </div>
    </div>
  );
}

/** Mark the word that is being heard, without drawing the text anew sixty times a second. */
function useHeardWord(text: { current: HTMLElement | null }, segments: Segment[]): void {
  const marked = useRef<Element | null>(null);
  useSignalEffect(() => {
    const now = player.isPlaying.value ? player.playhead.value : null;
    const heard = now === null ? null : elementAt(text.current, segments, now);
    if (heard === marked.current) return;
    marked.current?.classList.remove("heard");
    heard?.classList.add("heard");
    marked.current = heard;
  });
}

function elementAt(text: HTMLElement | null, segments: Segment[], seconds: number): Element | null {
  const segment = segments.findLast((each) => each.start <= seconds);
  if (!text || !segment || seconds > segment.end) return null;
  const at = timedWords(segment).findLastIndex((word) => word.start <= seconds + 0.02);
  return text.querySelector(`[data-segment="${segment.id}"] [data-word="${Math.max(0, at)}"]`);
}
