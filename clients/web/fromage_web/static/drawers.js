// The lists at the left and right: beside the conversation where there is room, over it on phones.

import { byId } from "./dom.js";
import { remember, remembered } from "./prefs.js";

class Drawer {
  #narrow;
  #wideOpen;
  #opener;

  /**
   * Where the media query `narrow` holds, it lies over the rest, closed until it is asked for;
   * elsewhere `wideOpen` says whether it is open at first.
   */
  constructor(id, opener, narrow, wideOpen) {
    this.element = byId(id);
    this.#opener = byId(opener);
    this.#narrow = matchMedia(narrow);
    this.#wideOpen = wideOpen;
    this.#opener.addEventListener("click", () => this.#choose(this.element.hidden));
    this.element.querySelector("[data-close]").addEventListener("click", () => this.#choose(false));
    this.element.addEventListener("keydown", ({ key }) => {
      if (key === "Escape") this.leave();
    });
    document.addEventListener("pointerdown", ({ target }) => {
      const inside = this.element.contains(target) || this.#opener.contains(target);
      if (!inside && !document.querySelector("dialog[open]")) this.leave();
    });
    this.#narrow.addEventListener("change", () => this.#settle());
    this.#settle();
  }

  get over() {
    return this.#narrow.matches && !this.element.hidden;
  }

  show() {
    if (this.element.hidden) this.#toggle(true);
  }

  /** Closes it where it lies over the conversation. */
  leave() {
    if (this.over) this.#choose(false);
  }

  #settle() {
    this.#toggle(!this.#narrow.matches && this.#wideOpen());
  }

  #choose(open) {
    this.#toggle(open);
    if (!this.#narrow.matches) remember(this.element.id, open);
    if (open) this.element.querySelector("[data-close], a, button").focus();
    else this.#opener.focus();
  }

  #toggle(open) {
    this.element.hidden = !open;
    this.element.classList.toggle("over", this.over);
    this.#opener.setAttribute("aria-expanded", String(open));
    document.body.classList.toggle(`with-${this.element.id}`, open);
    byId("main").inert = document.querySelector(".drawer.over:not([hidden])") !== null;
  }
}

export function openDrawers() {
  return {
    chats: new Drawer("chats", "open-chats", "(max-width: 760px)", () => remembered("chats", true)),
    settings: new Drawer("settings", "open-settings", "(max-width: 1100px)", () =>
      remembered("settings", false),
    ),
  };
}
