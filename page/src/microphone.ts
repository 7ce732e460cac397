// The microphone as 16-bit mono samples, and samples as a WAV file.

import { Failure } from "./service";
import workletAddress from "./sound-worklet.js?url&no-inline";

/** What speech needs; browsers that cannot record at it give their own rate. */
const WANTED_RATE_HZ = 16_000;

export interface Microphone {
  rate_hz: number;
  /** End the recording; what was still on its way is given to the listener first. */
  close(): Promise<void>;
}

/** Open the microphone; `listen` gets 100 ms of samples at a time. */
export async function openMicrophone(listen: (samples: Int16Array) => void): Promise<Microphone> {
  if (!navigator.mediaDevices) throw new Failure("insecure", "");
  const audio = { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true };
  const stream = await navigator.mediaDevices.getUserMedia({ audio }).catch((error: DOMException) => {
    throw new Failure(error.name === "NotAllowedError" ? "microphone_refused" : "no_microphone", error.message);
  });
  const [context, source] = contextFor(stream);
  await context.audioWorklet.addModule(workletAddress);
  const worklet = new AudioWorkletNode(context, "sound", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
  let onEnd = () => {};
  const over = new Promise<void>((resolve) => (onEnd = resolve));
  worklet.port.onmessage = ({ data }: MessageEvent<Int16Array | null>) => {
    if (data === null) onEnd();
    else if (data.length) listen(data);
  };
  source.connect(worklet);
  return {
    rate_hz: context.sampleRate,
    async close() {
      worklet.port.postMessage("end");
      await over;
      stream.getTracks().forEach((track) => track.stop());
      await context.close();
    },
  };
}

function contextFor(stream: MediaStream): [AudioContext, MediaStreamAudioSourceNode] {
  const context = new AudioContext({ sampleRate: WANTED_RATE_HZ });
  try {
    return [context, context.createMediaStreamSource(stream)];
  } catch {
    void context.close();
    const own = new AudioContext(); // Firefox converts no microphone to another rate
    return [own, own.createMediaStreamSource(stream)];
  }
}

export function wav(chunks: Int16Array[], rate_hz: number): Blob {
  const nBytes = chunks.reduce((sum, each) => sum + each.byteLength, 0);
  const head = new DataView(new ArrayBuffer(44));
  const text = (at: number, letters: string) => [...letters].forEach((each, i) => head.setUint8(at + i, each.charCodeAt(0)));
  text(0, "RIFF");
  head.setUint32(4, 36 + nBytes, true);
  text(8, "WAVEfmt ");
  head.setUint32(16, 16, true);
  head.setUint16(20, 1, true); // PCM
  head.setUint16(22, 1, true); // mono
  head.setUint32(24, rate_hz, true);
  head.setUint32(28, 2 * rate_hz, true);
  head.setUint16(32, 2, true);
  head.setUint16(34, 16, true);
  text(36, "data");
  head.setUint32(40, nBytes, true);
  return new Blob([head.buffer, ...(chunks as BlobPart[])], { type: "audio/wav" });
}
