// Recordings and their texts in the browser's own storage; nothing of it leaves the browser.

import { clear, createStore, del, get, set, values } from "idb-keyval";
import type { Recording } from "./recordings";

// Sounds apart from texts, so that a list of recordings does not read them all.
const texts = createStore("shrota-texts", "kept");
const sounds = createStore("shrota-sounds", "kept");

export async function keptRecordings(): Promise<Recording[]> {
  const kept = await values<Recording>(texts);
  return kept.sort((one, other) => other.created - one.created);
}

export function keepText(recording: Recording): Promise<void> {
  return set(recording.id, recording, texts);
}

export function keepSound(id: string, sound: Blob): Promise<void> {
  return set(id, sound, sounds);
}

export function keptSound(id: string): Promise<Blob | undefined> {
  return get<Blob>(id, sounds);
}

export async function forgetKept(id: string): Promise<void> {
  await Promise.all([del(id, texts), del(id, sounds)]);
}

export async function forgetAllKept(): Promise<void> {
  await Promise.all([clear(texts), clear(sounds)]);
}
