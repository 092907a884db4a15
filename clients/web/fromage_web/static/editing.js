// An earlier message that is written anew; what had been begun before is kept meanwhile.

import { byId } from "./dom.js";

export class Editing {
  #composer;
  #element = null;
  #draft = null;
  message = null;

  constructor(composer) {
    this.#composer = composer;
    composer.addEventListener("cancel", () => this.end());
    byId("cancel-edit").addEventListener("click", () => this.end());
  }

  /** `element` shows the message; `pictures`: its own, with their blobs. */
  begin(message, element, text, pictures) {
    this.end();
    this.message = message;
    this.#element = element;
    this.#draft = this.#composer.setAside();
    element.classList.add("edited");
    byId("editing").hidden = false;
    this.#composer.fill(text, pictures);
  }

  /** What had been begun before stands there again. */
  end() {
    if (!this.message) return;
    this.#leave();
    this.#composer.clear();
    this.#composer.putBack(this.#draft);
  }

  /** The message is gone: what is written stays, behind what had been begun before. */
  release() {
    if (!this.message) return;
    this.#leave();
    const written = this.#composer.setAside();
    const text = [this.#draft.text, written.text].filter(Boolean).join("\n");
    const attachments = [...this.#draft.attachments, ...written.attachments];
    this.#composer.putBack({ text, attachments });
  }

  #leave() {
    this.message = null;
    this.#element.classList.remove("edited");
    byId("editing").hidden = true;
  }
}
