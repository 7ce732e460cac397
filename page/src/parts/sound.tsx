// The waveform of the shown recording, with its segments; it is a slider for the keyboard.

import { useEffect, useRef } from "preact/hooks";
import { useSignalEffect } from "@preact/signals";
import * as player from "../player";
import { clock, colours, t } from "../preferences";
import { soundOf } from "../recordings";
import type { Segment } from "../transcript";
import * as icons from "./icons";

const STEP_S = 5;

export function Sound({ id, segments }: { id: string; segments: Segment[] }) {
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => player.show(place.current!, soundOf(id)), [id]);
  const state = player.playerState.value;
  useEffect(() => player.mark(segments), [segments, state, colours.value]);
  useSignalEffect(() => {
    if (colours.value) player.repaint();
  });
  const whole_s = player.duration_s.value;
  const now_s = player.playhead.value ?? 0;
  const keys: Record<string, () => void> = {
    ArrowLeft: () => player.seek(now_s - STEP_S),
    ArrowRight: () => player.seek(now_s + STEP_S),
    Home: () => player.seek(0),
    End: () => player.seek(whole_s),
    " ": () => player.playPause(),
    Enter: () => player.playPause(),
  };
  const press = (event: KeyboardEvent) => {
    const action = keys[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  };
  const isAway = state === "gone" || state === "unplayable";
  return (
    <div class="sound">
      {isAway && segments.length > 0 && <p class="soft">{state === "gone" ? t.value.noSound : t.value.unplayable}</p>}
      <div class="player" hidden={isAway}>
        <button
          type="button"
          class="play"
          disabled={state !== "ready"}
          aria-label={player.isPlaying.value ? t.value.pause : t.value.play}
          onClick={player.playPause}
        >
          {player.isPlaying.value ? <icons.Pause /> : <icons.Play />}
        </button>
        <div
          ref={place}
          class={`wave ${state}`}
          role="slider"
          tabIndex={0}
          aria-label={t.value.waveform}
          aria-valuemin={0}
          aria-valuemax={Math.round(whole_s)}
          aria-valuenow={Math.round(now_s)}
          aria-valuetext={clock(now_s)}
          onKeyDown={press}
        />
        <span class="clock">
          {clock(now_s)}
          <span class="soft"> / {clock(whole_s)}</span>
        </span>
      </div>
    </div>
  );
}
