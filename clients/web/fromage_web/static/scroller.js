// Following the newest words, unless the reader has gone back to earlier ones.

import { byId } from "./dom.js";

const NEAR = 80;

export class Scroller {
  #log = byId("log");
  #following = true;

  constructor() {
    this.#log.addEventListener("scroll", () => this.#look(), { passive: true });
    byId("newest").addEventListener("click", () => {
      this.jump();
      byId("message").focus();
    });
    new ResizeObserver(() => this.follow()).observe(this.#log);
  }

  /** To the end, and from now on along with it. */
  jump() {
    this.#following = true;
    this.follow();
  }

  follow() {
    if (this.#following) this.#log.scrollTop = this.#log.scrollHeight;
    else this.#look();
  }

  #look() {
    const below = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight;
    this.#following = below < NEAR;
    byId("newest").hidden = this.#following;
  }
}
