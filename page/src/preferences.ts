// What a person has chosen: the language and the colours of the page, and the options of the next recording.

import { computed, effect, signal } from "@preact/signals";
import type { Choice } from "./service";
import { TEXTS, type InterfaceLanguage } from "./texts";

export type Theme = "auto" | "light" | "dark";
const THEMES: Theme[] = ["auto", "light", "dark"];

interface Preferences {
  language: InterfaceLanguage;
  theme: Theme;
  choice: Choice;
}

const PLACE = "shrota";
const USUAL: Preferences = {
  language: navigator.language.startsWith("mr") ? "mr" : "en",
  theme: "auto",
  choice: { adapter: "", language: "", task: "transcribe" },
};

function kept(): Preferences {
  try {
    return { ...USUAL, ...(JSON.parse(localStorage.getItem(PLACE) ?? "{}") as Partial<Preferences>) };
  } catch {
    return USUAL;
  }
}

export const preferences = signal(kept());
export const t = computed(() => TEXTS[preferences.value.language]);
/** The page's language as the browser's owner writes it: dates in en-IN or en-GB are not those of en-US. */
export const locale = computed(() => {
  const { language } = preferences.value;
  return navigator.languages.find((each) => each.split("-")[0] === language) ?? language;
});
/** Changes when colours that a canvas draws with are to be read anew. */
export const colours = signal(0);

export function prefer(changed: Partial<Preferences>): void {
  preferences.value = { ...preferences.value, ...changed };
}

export function nextTheme(): void {
  const at = THEMES.indexOf(preferences.value.theme);
  prefer({ theme: THEMES[(at + 1) % THEMES.length]! });
}

export function applyPreferences(): void {
  effect(() => {
    const { language, theme } = preferences.value;
    document.documentElement.lang = language;
    document.title = TEXTS[language].name === "shrota" ? "shrota · श्रोता" : "श्रोता";
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    colours.value = colours.peek() + 1;
    try {
      localStorage.setItem(PLACE, JSON.stringify(preferences.value));
    } catch {
      // Without storage the choice holds until the page is closed.
    }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (colours.value += 1));
}

const digits = computed(() => new Intl.NumberFormat(preferences.value.language, { maximumFractionDigits: 1 }));

export function number(value: number, fractionDigits = value < 10 ? 1 : 0): string {
  const factor = 10 ** fractionDigits;
  return digits.value.format(Math.round(value * factor) / factor);
}

export function percent(share: number): string {
  return new Intl.NumberFormat(preferences.value.language, { style: "percent" }).format(share);
}

export function size(bytes: number): string {
  return `${number(bytes / 2 ** 20)} MiB`;
}

/** Below this length the time to start counts for more than the speed. */
const SPEED_FROM_S = 10;

/** How many times faster than speech a recording was transcribed, where that says something. */
export function speedOf(speed: number | null, heard_s: number): string | null {
  return speed && heard_s >= SPEED_FROM_S ? number(speed) : null;
}

/** 75 → 1:15, in the digits of the page's language. */
export function clock(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const two = new Intl.NumberFormat(preferences.value.language, { minimumIntegerDigits: 2 });
  const one = new Intl.NumberFormat(preferences.value.language);
  const rest = two.format(whole % 60);
  return hours ? `${one.format(hours)}:${two.format(minutes)}:${rest}` : `${one.format(minutes)}:${rest}`;
}

export function languageName(code: string): string {
  try {
    const names = new Intl.DisplayNames([preferences.value.language], { type: "language" });
    return names.of(code) ?? code;
  } catch {
    return code;
  }
}

/** The sentence for an error: in the page's language where the code is known, else what the service said. */
export function sentence(failure: { code: string; message: string }): string {
  if (failure.code === "too_large") {
    const [bytes, most] = failure.message.split("/").map(Number);
    return t.value.tooLarge(size(bytes!), size(most!));
  }
  const known = t.value.failure[failure.code];
  if (known) return known;
  const said = failure.message || failure.code;
  return said[0]!.toUpperCase() + said.slice(1) + (/[.!?]$/.test(said) ? "" : ".");
}
