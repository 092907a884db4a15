// Where a message is written: words, and pictures that are sent ahead while one still writes.

import { upload } from "./api.js";
import { nameOf } from "./conversation.js";
import { announce, byId, button, el, iconButton, imageFiles } from "./dom.js";
import { picture } from "./pictures.js";

const TALLEST = 220;

/** A picture to be sent: a file, or one of a collection (`image`). */
class Attachment {
  constructor({ blob = null, name, image = null, local = null }) {
    Object.assign(this, { blob, name, image, local, error: null });
    this.state = local || image ? "ready" : "waiting";
    this.leaving = new AbortController();
  }

  async send(changed) {
    this.state = "sending";
    changed();
    try {
      const { id, width, height, expires_at } = await upload(this.blob, this.leaving.signal);
      this.local = { picture: this.local?.picture ?? id, name: this.name, upload: id, expires_at };
      this.size = { width, height };
      this.state = "ready";
    } catch (error) {
      if (error.name === "AbortError") return;
      this.state = "failed";
      this.error = error.message;
    }
    changed();
  }

  /** It is not ready: what is said of that. */
  get why() {
    return this.state === "failed"
      ? `${this.name} could not be sent: remove it, or try it again.`
      : "One moment: a picture is still on its way.";
  }

  get part() {
    if (this.image) return { type: "image", image: this.image };
    return { type: "image", image: this.size, local: this.local };
  }
}

/** Fires `send`, `stop`, `edit-last` and `cancel`; `content` is what has been written. */
export class Composer extends EventTarget {
  #attachments = [];
  #text = byId("message");
  #busy = false;

  constructor() {
    super();
    byId("composer").addEventListener("submit", (event) => this.#submit(event));
    byId("stop").addEventListener("click", () => this.dispatchEvent(new Event("stop")));
    byId("attach").addEventListener("click", () => byId("files").click());
    byId("files").addEventListener("change", ({ target }) => {
      this.addFiles(target.files);
      target.value = "";
    });
    this.#text.addEventListener("input", () => this.#fit());
    this.#text.addEventListener("keydown", (event) => this.#key(event));
    document.addEventListener("paste", (event) => this.#paste(event));
    this.#acceptDrops();
  }

  get empty() {
    return !this.#text.value.trim() && !this.#attachments.length;
  }

  /** The parts of the message, pictures first. */
  get content() {
    const text = this.#text.value.trim();
    const parts = this.#attachments.map((one) => one.part);
    return text ? [...parts, { type: "text", text }] : parts;
  }

  set busy(busy) {
    this.#busy = busy;
    const focused = document.activeElement?.closest("#send, #stop");
    byId("send").hidden = busy;
    byId("stop").hidden = !busy;
    if (focused) byId(busy ? "stop" : "send").focus();
  }

  focus() {
    this.#text.focus();
  }

  clear() {
    this.#attachments.forEach((one) => one.leaving.abort());
    this.#attachments = [];
    this.#text.value = "";
    this.say("");
    this.#fit();
    this.#show();
  }

  /** Takes a message up again: its text, and its pictures with their blobs. */
  fill(text, pictures) {
    this.clear();
    const attachments = pictures.map(({ part, blob }) => {
      const { image, local } = part;
      const one = local
        ? new Attachment({ blob, name: local.name, local })
        : new Attachment({ image, name: nameOf(image) });
      one.size = image;
      return one;
    });
    this.putBack({ text, attachments });
    this.focus();
  }

  /** Empties it, and returns what stood there for `putBack`; pictures go on being sent. */
  setAside() {
    const draft = { text: this.#text.value, attachments: this.#attachments };
    this.#attachments = [];
    this.clear();
    return draft;
  }

  putBack({ text, attachments }) {
    this.#text.value = text;
    this.#attachments = attachments;
    this.#fit();
    this.#show();
  }

  /** From now on it can be written in. */
  enable() {
    this.#text.disabled = false;
    this.focus();
  }

  /** Those that are pictures are sent ahead at once. */
  addFiles(files) {
    const pictures = imageFiles(files);
    this.say(pictures.length < files.length ? "Only pictures can be sent." : "");
    const added = pictures.map((file) => new Attachment({ blob: file, name: file.name }));
    this.#attachments.push(...added);
    this.#show();
    added.forEach((one) => this.#send(one));
  }

  /** A picture of a collection, to be asked about. */
  addImage(image) {
    this.#attachments.push(new Attachment({ image, name: nameOf(image) }));
    this.#show();
    this.focus();
  }

  /** What is wrong, beneath the message; nothing where it is empty. */
  say(problem) {
    byId("problem").textContent = problem;
    byId("problem").hidden = !problem;
  }

  #submit(event) {
    event.preventDefault();
    if (this.#busy) return;
    if (this.#isSendable()) this.dispatchEvent(new Event("send"));
  }

  #isSendable() {
    const waiting = this.#attachments.find((one) => one.state !== "ready");
    this.say(waiting ? waiting.why : "");
    return !waiting && !this.empty;
  }

  /** What is written, `{content, files}`, and empties itself; null where it cannot be sent now. */
  take() {
    if (!this.#isSendable()) return null;
    const { content } = this;
    const files = this.#attachments.filter((one) => one.blob);
    const taken = { content, files: files.map(({ local, blob }) => ({ local, blob })) };
    this.clear();
    return taken;
  }

  #key(event) {
    const typing = event.isComposing || matchMedia("(pointer: coarse)").matches;
    if (event.key === "Enter" && !event.shiftKey && !typing) {
      event.preventDefault();
      byId("composer").requestSubmit();
    } else if (event.key === "Escape") {
      this.dispatchEvent(new Event(this.#busy ? "stop" : "cancel"));
    } else if (event.key === "ArrowUp" && this.empty) {
      this.dispatchEvent(new Event("edit-last"));
    }
  }

  #paste(event) {
    const files = imageFiles(event.clipboardData?.files);
    if (!files.length || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    this.addFiles(files);
  }

  #acceptDrops() {
    const carries = ({ dataTransfer }) => [...(dataTransfer?.types ?? [])].includes("Files");
    const over = (event) => {
      if (!carries(event) || document.querySelector("dialog[open]")) return;
      event.preventDefault();
      byId("drop").hidden = false;
    };
    document.addEventListener("dragenter", over);
    document.addEventListener("dragover", over);
    document.addEventListener("dragleave", ({ relatedTarget }) => {
      if (!relatedTarget) byId("drop").hidden = true;
    });
    document.addEventListener("drop", (event) => {
      byId("drop").hidden = true;
      if (!carries(event)) return;
      event.preventDefault();
      if (!document.querySelector("dialog[open]")) this.addFiles(event.dataTransfer.files);
    });
  }

  async #send(attachment) {
    await attachment.send(() => this.#show());
    if (attachment.error) announce(`${attachment.name}: ${attachment.error}`);
    else announce(`${attachment.name} is ready to send`);
    if (this.#attachments.every((one) => one.state === "ready")) this.say("");
  }

  #show() {
    const list = byId("attachments");
    list.hidden = !this.#attachments.length;
    list.replaceChildren(...this.#attachments.map((one) => this.#item(one)));
  }

  #item(one) {
    if (one.blob) one.url ??= URL.createObjectURL(one.blob);
    const source = one.image ?? { key: one.name, url: one.url };
    const remove = iconButton("close", `Remove ${one.name}`, () => this.#remove(one));
    const failed = one.state === "failed";
    return el(
      "li",
      { class: `attachment ${one.state}`, "aria-busy": String(one.state === "sending") },
      picture({ ...source, width: 64, height: 64 }, 64),
      one.state === "sending" ? el("progress", { "aria-label": `Sending ${one.name}` }) : null,
      failed ? el("span", { class: "why" }, one.error) : null,
      failed ? button("Try again", () => this.#send(one)) : null,
      remove,
    );
  }

  #remove(one) {
    one.leaving.abort();
    if (one.url) URL.revokeObjectURL(one.url);
    this.#attachments = this.#attachments.filter((other) => other !== one);
    this.#show();
    this.say("");
    this.focus();
  }

  #fit() {
    this.#text.style.height = "auto";
    this.#text.style.height = `${Math.min(this.#text.scrollHeight, TALLEST)}px`;
  }
}
