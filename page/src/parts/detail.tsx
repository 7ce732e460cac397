// The shown recording: its progress or its trouble, its sound, its text, and the text as files.

import { useSignal } from "@preact/signals";
import { download, fileOf, FORMATS } from "../downloads";
import { liveId } from "../live";
import { clock, languageName, number, percent, preferences, sentence, speedOf, t } from "../preferences";
import { cancel, retry, selected, type Recording } from "../recordings";
import { plainText } from "../transcript";
import * as icons from "./icons";
import { Sound } from "./sound";
import { Transcript } from "./transcript";

export function Detail() {
  const recording = selected.value;
  if (!recording) return <section class="card detail nothing" aria-hidden="true" />;
  const { id, name, state, segments } = recording;
  const hasSound = state !== "live" && liveId.value !== id;
  return (
    <section class="card detail" aria-labelledby="shown-name">
      <header>
        <h2 id="shown-name">{name}</h2>
        <Facts recording={recording} />
      </header>
      <Progress recording={recording} />
      <Trouble recording={recording} />
      {hasSound && <Sound key={id} id={id} segments={segments} />}
      <Transcript recording={recording} />
      {segments.length > 0 && state !== "live" && <Take recording={recording} />}
    </section>
  );
}

function Facts({ recording }: { recording: Recording }) {
  const { state, duration_s, reached_s, speed, language, lag_s } = recording;
  const times = speedOf(speed, reached_s);
  const facts: string[] = [];
  if (duration_s) facts.push(clock(duration_s));
  if (language) facts.push(languageName(language));
  if (times && (state === "done" || state === "working")) facts.push(t.value.speed(times));
  if (lag_s !== null && state === "live") facts.push(t.value.lag(number(lag_s)));
  return (
    <p class="facts">
      <span class={`state ${state}`}>{t.value.state[state]}</span>
      {facts.map((each) => (
        <span key={each}>{each}</span>
      ))}
    </p>
  );
}

function Progress({ recording }: { recording: Recording }) {
  const { id, state, sent, duration_s, reached_s } = recording;
  if (state !== "sending" && state !== "working" && state !== "waiting") return null;
  const share = state === "sending" ? sent : duration_s ? Math.min(1, reached_s / duration_s) : undefined;
  const told = share === undefined ? "" : state === "sending" ? t.value.percentSent(percent(share)) : percent(share);
  return (
    <div class="progress">
      <progress max={1} value={state === "waiting" ? 0 : share} aria-label={t.value.state[state]} />
      <span class="told">{state === "waiting" ? t.value.state.waiting : told}</span>
      <button type="button" onClick={() => cancel(id)}>
        {t.value.cancel}
      </button>
    </div>
  );
}

function Trouble({ recording }: { recording: Recording }) {
  const { id, state, failure } = recording;
  const again = () => retry(id, preferences.value.choice);
  if (state === "cancelled") {
    return (
      <div class="notice">
        <p>{t.value.cancelledText}</p>
        <button type="button" onClick={again}>
          <icons.Again /> {t.value.retry}
        </button>
      </div>
    );
  }
  if (!failure) return null;
  return (
    <div class="notice failed" role="alert">
      <p>{sentence(failure)}</p>
      {failure.code !== "too_large" && (
        <button type="button" onClick={again}>
          <icons.Again /> {t.value.retry}
        </button>
      )}
    </div>
  );
}

function Take({ recording }: { recording: Recording }) {
  const { name, fromMicrophone } = recording;
  const isCopied = useSignal(false);
  const stem = (fromMicrophone ? name : name.replace(/\.[^.]{1,5}$/, "")).replace(/[\\/:*?"<>|]/g, "-");
  const copy = async () => {
    await navigator.clipboard.writeText(plainText(recording.segments));
    isCopied.value = true;
    setTimeout(() => (isCopied.value = false), 2000);
  };
  return (
    <footer class="take">
      <span class="label" id="take-label">
        <icons.Down /> {t.value.download}
      </span>
      <div class="formats" role="group" aria-labelledby="take-label">
        {FORMATS.map((format) => (
          <button
            key={format}
            type="button"
            aria-label={t.value.downloadAs(format.toUpperCase())}
            onClick={() => download(`${stem}.${format}`, fileOf(format, recording))}
          >
            {format.toUpperCase()}
          </button>
        ))}
      </div>
      {navigator.clipboard && (
        <button type="button" class="quiet" onClick={() => void copy()}>
          <icons.Copy /> {isCopied.value ? t.value.copied : t.value.copy}
        </button>
      )}
    </footer>
  );
}
