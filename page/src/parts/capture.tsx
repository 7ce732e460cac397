// Where sound comes in: files that are dropped or chosen, the microphone, and the options for both.

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { level, liveId, startSpeaking, stopSpeaking } from "../live";
import { languageName, locale, prefer, preferences, sentence, t } from "../preferences";
import { addFiles, offered, trouble } from "../recordings";
import { useKey, type Choice } from "../service";
import * as icons from "./icons";

/** A press that lasts longer is a hold: it ends with the release. */
const HOLD_MS = 400;

export function Capture() {
  return (
    <section class="card capture" aria-label={t.value.choose}>
      <Files />
      <Speak />
      {trouble.value?.code === "wrong_key" && <Key />}
      {trouble.value && (
        <p class="trouble" role="alert">
          {sentence(trouble.value)}
        </p>
      )}
      <Options />
    </section>
  );
}

function Files() {
  const chooser = useRef<HTMLInputElement>(null);
  const isOver = useSignal(false);
  useEffect(() => {
    // The whole window takes files: who misses the box by a centimetre must not lose the page to the file.
    const hasFiles = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
    const over = (event: DragEvent) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      isOver.value = true;
    };
    const leave = (event: DragEvent) => {
      if (event.relatedTarget === null) isOver.value = false;
    };
    const drop = (event: DragEvent) => {
      isOver.value = false;
      if (!hasFiles(event)) return;
      event.preventDefault();
      addFiles(event.dataTransfer!.files, preferences.value.choice);
    };
    window.addEventListener("dragover", over);
    window.addEventListener("dragleave", leave);
    window.addEventListener("drop", drop);
    return () => {
      window.removeEventListener("dragover", over);
      window.removeEventListener("dragleave", leave);
      window.removeEventListener("drop", drop);
    };
  }, []);
  const take = () => {
    addFiles(chooser.current!.files ?? [], preferences.value.choice);
    chooser.current!.value = ""; // so that the same file can be chosen again
  };
  return (
    <div class={isOver.value ? "drop over" : "drop"}>
      <p class="title">{isOver.value ? t.value.dropNow : t.value.dropTitle}</p>
      <p class="soft">{t.value.formats}</p>
      <button type="button" class="primary" onClick={() => chooser.current!.click()}>
        <icons.File /> {t.value.choose}
      </button>
      <input ref={chooser} type="file" multiple hidden aria-label={t.value.choose} onChange={take} />
    </div>
  );
}

function Speak() {
  const pressed_ms = useRef<number | null>(null);
  const isOn = liveId.value !== null;
  const begin = () => {
    const when = new Intl.DateTimeFormat(locale.value, { dateStyle: "medium", timeStyle: "short" });
    void startSpeaking(preferences.value.choice, t.value.micName(when.format(new Date())));
  };
  const press = (event: PointerEvent) => {
    if (event.button !== 0) return;
    pressed_ms.current = performance.now();
    if (isOn) {
      stopSpeaking();
      pressed_ms.current = -Infinity; // the release after it begins nothing
      return;
    }
    begin();
    const release = () => {
      if (performance.now() - (pressed_ms.current ?? Infinity) > HOLD_MS) stopSpeaking();
    };
    window.addEventListener("pointerup", release, { once: true });
    window.addEventListener("pointercancel", release, { once: true });
  };
  // The keyboard sends clicks without a pointer: they switch on and off.
  const click = (event: MouseEvent) => {
    if (event.detail !== 0) return;
    if (isOn) stopSpeaking();
    else begin();
  };
  const loudness = Math.min(1, Math.sqrt(level.value));
  return (
    <div class="speak">
      <button
        type="button"
        class={isOn ? "microphone on" : "microphone"}
        aria-pressed={isOn}
        aria-describedby="speak-hint"
        onPointerDown={press}
        onClick={click}
      >
        <span class="level" style={{ transform: `scale(${1 + 0.45 * loudness})` }} aria-hidden="true" />
        <span class="face">
          {isOn ? <icons.Stop /> : <icons.Microphone />}
          <span>{isOn ? t.value.stop : t.value.speak}</span>
        </span>
      </button>
      <p class="soft" id="speak-hint">
        {t.value.speakHint}
      </p>
    </div>
  );
}

function Key() {
  const field = useRef<HTMLInputElement>(null);
  const take = (event: Event) => {
    event.preventDefault();
    useKey(field.current!.value.trim());
  };
  return (
    <form class="key" onSubmit={take}>
      <label>
        <span>{t.value.key}</span>
        <input ref={field} type="password" autocomplete="off" required />
      </label>
      <button type="submit" class="primary">
        {t.value.save}
      </button>
    </form>
  );
}

function Options() {
  const { choice } = preferences.value;
  const { models, facts } = offered.value;
  const choose = (changed: Partial<Choice>) => prefer({ choice: { ...choice, ...changed } });
  const languages = (facts?.languages ?? [])
    .map((code) => ({ code, name: languageName(code) }))
    .sort((one, other) => one.name.localeCompare(other.name, preferences.value.language));
  const names = { served: (name: string) => name || t.value.servedModel, base: t.value.baseModel, adapter: String };
  return (
    <fieldset class="options">
      <legend class="unseen">{t.value.options}</legend>
      <label>
        <span>{t.value.model}</span>
        <select value={choice.adapter} onChange={(event) => choose({ adapter: event.currentTarget.value })}>
          {!models.length && <option value="">{t.value.servedModel}</option>}
          {models.map(({ adapter, name, kind }) => (
            <option key={adapter} value={adapter}>
              {names[kind](name)}
            </option>
          ))}
        </select>
      </label>
      <label>
        <span>{t.value.spokenLanguage}</span>
        <select value={choice.language} onChange={(event) => choose({ language: event.currentTarget.value })}>
          <option value="">{t.value.usualLanguage}</option>
          <option value="auto">{t.value.detect}</option>
          {languages.map(({ code, name }) => (
            <option key={code} value={code}>
              {name}
            </option>
          ))}
        </select>
      </label>
      <label>
        <span>{t.value.task}</span>
        <select
          value={choice.task}
          onChange={(event) => choose({ task: event.currentTarget.value as Choice["task"] })}
        >
          <option value="transcribe">{t.value.transcribe}</option>
          <option value="translate">{t.value.translate}</option>
        </select>
      </label>
    </fieldset>
  );
}
