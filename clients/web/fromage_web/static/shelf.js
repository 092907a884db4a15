// The pictures of the collections: looking through them, adding, deleting; new collections.

import * as api from "./api.js";
import { ask, closeOutside } from "./ask.js";
import { nameOf } from "./conversation.js";
import { byId, button, el, iconButton, imageFiles, number } from "./dom.js";
import { elsewhere, isHere, picture } from "./pictures.js";

const SIDE = 128;
const NAME = "[A-Za-z0-9][A-Za-z0-9._\\-]{0,63}";

/** Fires `change` when collections or their sizes have changed. */
export class Shelf extends EventTarget {
  #dialog = byId("shelf");
  #collections = [];
  #name = null;
  #next = null;
  #adding = false;
  #choice = el("select", { id: "shelf-choice" });
  #state = el("p", { class: "state", "aria-live": "polite" });
  // While the dialog is open, the page's own announcer is not heard.
  #said = el("p", { class: "unseen", role: "status" });
  #progress = el("progress", { "aria-label": "Adding pictures", hidden: true });
  #problems = el("ul", { class: "problems", "aria-label": "Problems" });
  #grid = el("ul", { class: "grid", "aria-label": "Pictures" });
  #more = button("Show more", () => this.#page());
  #files = el("input", {
    ...{ type: "file", accept: "image/*", multiple: true, hidden: true },
    "aria-label": "Pictures to add",
  });
  #add = button("Add pictures…", () => this.#files.click(), { class: "plain primary" });
  #drop = button("Drop the collection…", () => this.#dropCollection(), { class: "plain danger" });

  constructor() {
    super();
    closeOutside(this.#dialog);
    this.#choice.addEventListener("change", () => this.#choose(this.#choice.value));
    this.#files.addEventListener("change", () => {
      this.#addAll([...this.#files.files]);
      this.#files.value = "";
    });
    this.#dialog.addEventListener("dragover", (event) => event.preventDefault());
    this.#dialog.addEventListener("drop", (event) => {
      event.preventDefault();
      if (!this.#add.disabled) this.#addAll(imageFiles(event.dataTransfer.files));
    });
    const create = button("New collection…", () => this.#create());
    const label = el("label", { for: "shelf-choice" }, "Collection");
    const close = iconButton("close", "Close", () => this.#dialog.close());
    this.#dialog.append(
      el("div", { class: "corner" }, close),
      el("h2", { id: "shelf-title" }, "Pictures"),
      el("div", { class: "choice" }, label, this.#choice, create),
      el("div", { class: "buttons" }, this.#add, this.#files, this.#drop),
      this.#state,
      this.#progress,
      this.#said,
      el("div", { role: "alert" }, this.#problems),
      this.#grid,
      this.#more,
    );
  }

  async open(collections, name) {
    this.#collections = collections;
    this.#dialog.showModal();
    await this.#choose(name ?? collections[0]?.name ?? null);
  }

  async #choose(name) {
    this.#name = name;
    const options = this.#collections.map(({ name }) => el("option", { value: name }, name));
    this.#choice.replaceChildren(...options);
    this.#choice.value = name ?? "";
    this.#problems.replaceChildren();
    this.#grid.replaceChildren();
    this.#next = null;
    this.#allow();
    if (!this.#chosen) {
      this.#more.hidden = true;
      this.#state.textContent = "There is no collection yet.";
    } else {
      await this.#page();
    }
  }

  get #chosen() {
    return this.#collections.find(({ name }) => name === this.#name);
  }

  #allow() {
    this.#add.disabled = this.#adding || !this.#chosen?.writable;
    this.#drop.hidden = this.#adding || !this.#chosen?.droppable;
  }

  /** The next page of the chosen collection, if it still is the chosen one when it comes. */
  async #page() {
    const name = this.#name;
    this.#more.hidden = true;
    this.#problems.replaceChildren();
    this.#state.textContent = "Looking through the collection…";
    try {
      const { images, next, total } = await api.listImages(name, this.#next);
      if (name !== this.#name) return;
      this.#next = next;
      this.#grid.append(...images.map((image) => this.#item(image)));
      this.#count(total);
      this.#more.textContent = "Show more";
      this.#more.hidden = !next;
    } catch (error) {
      if (name !== this.#name) return;
      this.#refused(error);
      this.#state.textContent = "";
      if (error.code === "collection_not_found") this.dispatchEvent(new Event("change"));
      this.#more.textContent = "Try again";
      this.#more.hidden = false;
    }
  }

  #count(total) {
    const pictures = total === 1 ? "1 picture" : `${number(total)} pictures`;
    const { size, writable } = this.#chosen;
    this.#chosen.size = total;
    this.#state.textContent = writable ? pictures : `${pictures}; this collection cannot be changed`;
    if (size !== total) this.dispatchEvent(new Event("change"));
  }

  #item(image) {
    const name = nameOf(image);
    const remove = iconButton("trash", `Delete ${name}`, () => this.#delete(image, item));
    const shown = isHere(image) ? picture(image, SIDE, { lazy: true }) : elsewhere(image);
    const item = el("li", { title: name }, shown, this.#chosen.writable ? remove : null);
    return item;
  }

  async #delete(image, item) {
    const text = `${nameOf(image)} will not be found any more.`;
    if (!(await ask({ title: "Delete this picture?", text, yes: "Delete", danger: true }))) return;
    item.classList.add("going");
    try {
      await api.deleteImage(image.collection, image.id);
      const following = item.nextElementSibling ?? item.previousElementSibling;
      item.remove();
      (following?.querySelector("button") ?? this.#add).focus();
      this.#count(this.#chosen.size - 1);
    } catch (error) {
      item.classList.remove("going");
      this.#refused(error);
    }
  }

  async #addAll(files) {
    if (!files.length || this.#adding) return;
    const name = this.#name;
    this.#adding = true;
    this.#allow();
    this.#problems.replaceChildren();
    this.#said.textContent = "";
    this.#progress.hidden = false;
    this.#progress.max = files.length;
    let known = 0;
    let failed = 0;
    for (const [done, file] of files.entries()) {
      this.#progress.value = done;
      this.#state.textContent = `Adding ${number(done + 1)} of ${number(files.length)}…`;
      const status = await this.#addOne(name, file);
      known += status === "exists";
      failed += status === "failed";
    }
    this.#progress.hidden = true;
    this.#adding = false;
    this.#allow();
    if (this.#chosen) this.#count(this.#chosen.size);
    if (known) this.#state.append(`; ${number(known)} added before`);
    const added = `${number(files.length - failed)} of ${number(files.length)}`;
    this.#said.textContent = failed
      ? `${added} pictures have been added.`
      : "All pictures have been added.";
  }

  /** Returns the status; a failure is shown and does not hold the others up. */
  async #addOne(name, file) {
    try {
      const { status, image, error } = await api.addImage(name, file);
      if (status === "failed") throw new Error(error.message);
      if (status === "added" && name === this.#name) {
        this.#grid.prepend(this.#item(image));
        this.#count(this.#chosen.size + 1);
      }
      return status;
    } catch (error) {
      this.#refused(new Error(`${file.name}: ${error.message}`));
      return "failed";
    }
  }

  async #create() {
    const text = "Letters, digits and . _ -; pictures are added next.";
    const question = { title: "New collection", text, yes: "Create", label: "Name", pattern: NAME };
    const name = await ask(question);
    if (name) await this.#changing(`Making ${name}…`, api.createCollection(name), name);
  }

  async #dropCollection() {
    const title = `Drop the collection ${this.#name}?`;
    const text = "All its pictures are deleted from the server. This cannot be undone.";
    if (await ask({ title, text, yes: "Drop it", danger: true })) {
      await this.#changing(`Dropping ${this.#name}…`, api.dropCollection(this.#name), null);
    }
  }

  async #changing(what, change, name) {
    const before = this.#state.textContent;
    this.#state.textContent = what;
    try {
      await change;
      this.#collections = await api.collections();
      this.dispatchEvent(new Event("change"));
      await this.#choose(name ?? this.#collections[0]?.name ?? null);
    } catch (error) {
      this.#state.textContent = before;
      this.#refused(error);
    }
  }

  #refused(error) {
    this.#problems.append(el("li", {}, error.message));
  }
}
