// Whether the server is there and ready; asked often while it isn't, now and then while it is.

import { ready } from "./api.js";
import { byId, announce } from "./dom.js";

const WAITING_MS = 1_000;
const READY_MS = 30_000;
const COUNTED = /([\d,]+) of ([\d,]+)/;

/** Fires `ready` each time the server becomes so, `away` when it stops being so. */
export class ServerStatus extends EventTarget {
  #timer = 0;
  #asking = false;
  ready = false;

  constructor() {
    super();
    document.addEventListener("visibilitychange", () => this.ask());
  }

  /** Ask now, and from then on. */
  async ask() {
    clearTimeout(this.#timer);
    if (this.#asking || document.hidden) return;
    this.#asking = true;
    try {
      await ready();
      this.#become(true);
    } catch (error) {
      this.#become(false);
      this.#show(error);
    }
    this.#asking = false;
    this.#timer = setTimeout(() => this.ask(), this.ready ? READY_MS : WAITING_MS);
  }

  #become(ready) {
    if (ready) byId("banner").hidden = true;
    if (ready === this.ready) return;
    this.ready = ready;
    if (ready) announce("The server is ready.");
    this.dispatchEvent(new Event(ready ? "ready" : "away"));
  }

  #show(error) {
    const starting = error.code === "not_ready";
    const phase = error.message.replace(/^not ready yet: /, "");
    const text = starting ? `Getting ready: ${phase}` : `${error.message} Trying again…`;
    const banner = byId("banner");
    if (banner.hidden) announce(text);
    banner.hidden = false;
    byId("banner-text").textContent = text;
    const [, done, total] = COUNTED.exec(phase) ?? [];
    const bar = byId("banner-progress");
    bar.hidden = false;
    if (starting && total) {
      bar.max = Number(total.replaceAll(",", ""));
      bar.value = Number(done.replaceAll(",", ""));
    } else {
      bar.removeAttribute("value");
    }
  }
}
