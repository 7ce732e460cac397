// Runs in the browser's audio thread: float samples in, chunks of 16-bit samples of 100 ms out.

class Sound extends AudioWorkletProcessor {
  constructor() {
    super();
    this.chunk = new Int16Array(Math.round(sampleRate / 10));
    this.filled = 0;
    this.port.onmessage = () => {
      this.port.postMessage(this.chunk.slice(0, this.filled));
      this.port.postMessage(null);
      this.filled = 0;
    };
  }

  process(inputs) {
    for (const sample of inputs[0]?.[0] ?? []) {
      this.chunk[this.filled++] = Math.max(-1, Math.min(1, sample)) * 32767;
      if (this.filled === this.chunk.length) {
        this.port.postMessage(this.chunk.slice());
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("sound", Sound);
