// The queue and the history: one line for each recording, with its state and what can be done.

import { clock, percent, preferences, speedOf, t } from "../preferences";
import { cancel, forget, forgetAll, recordings, retry, selectedId, type Recording } from "../recordings";
import * as icons from "./icons";

export function List() {
  if (!recordings.value.length) return null;
  const sweep = () => {
    if (confirm(t.value.forgetAllSure)) void forgetAll();
  };
  return (
    <section class="list" aria-labelledby="list-title">
      <div class="list-head">
        <h2 id="list-title">{t.value.recordings}</h2>
        <button type="button" class="quiet" onClick={sweep}>
          {t.value.forgetAll}
        </button>
      </div>
      <ul>
        {recordings.value.map((recording) => (
          <Line key={recording.id} recording={recording} />
        ))}
      </ul>
      <p class="soft">{t.value.kept}</p>
    </section>
  );
}

function Line({ recording }: { recording: Recording }) {
  const { id, name, state } = recording;
  const isShown = selectedId.value === id;
  const isBusy = state === "waiting" || state === "sending" || state === "working";
  const canRetry = state === "failed" || state === "cancelled";
  const show = () => {
    selectedId.value = id;
    // On a phone it is shown below the list.
    const below = matchMedia("(max-width: 900px)").matches;
    if (below) requestAnimationFrame(() => document.querySelector(".detail")?.scrollIntoView({ block: "start" }));
  };
  return (
    <li class={isShown ? "line shown" : "line"}>
      <button
        type="button"
        class="open"
        aria-current={isShown ? "true" : undefined}
        onClick={show}
      >
        <span class="name">{name}</span>
        <StateLine recording={recording} />
      </button>
      {isBusy && (
        <button type="button" class="quiet icon-only" aria-label={t.value.cancelThis(name)} onClick={() => cancel(id)}>
          <icons.Cross />
        </button>
      )}
      {canRetry && (
        <button
          type="button"
          class="quiet icon-only"
          aria-label={t.value.retryThis(name)}
          onClick={() => retry(id, preferences.value.choice)}
        >
          <icons.Again />
        </button>
      )}
      {!isBusy && state !== "live" && (
        <button type="button" class="quiet icon-only" aria-label={t.value.forgetThis(name)} onClick={() => void forget(id)}>
          <icons.Bin />
        </button>
      )}
    </li>
  );
}

function StateLine({ recording }: { recording: Recording }) {
  const { state } = recording;
  return (
    <span class="state-line">
      <span class={`state ${state}`}>{t.value.state[state]}</span>
      {detailsOf(recording).map((each) => (
        <span key={each}>{each}</span>
      ))}
    </span>
  );
}

function detailsOf({ state, sent, duration_s, reached_s, speed }: Recording): string[] {
  const details: string[] = [];
  if (state === "sending") details.push(percent(sent));
  if (state === "working" && duration_s) details.push(percent(Math.min(1, reached_s / duration_s)));
  if (duration_s && state !== "sending") details.push(clock(duration_s));
  const times = speedOf(speed, reached_s);
  if (times && (state === "working" || state === "done")) details.push(`${times} ×`);
  return details;
}
