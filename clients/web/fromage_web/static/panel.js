// What stands in the settings: the collection, the model, the options, the colours.

import { button, el, number } from "./dom.js";
import { remember, remembered } from "./prefs.js";
import { Options } from "./settings.js";

const COLOURS = { null: "As the system", light: "Light", dark: "Dark" };

/** `act`: {showShelf(), reveal()}; the latter makes the panel visible. */
export class Panel {
  #act;
  #options = null;
  #collections = [];
  #choice = el("select", { id: "collection", on: { change: () => this.#choose() } });
  #size = el("p", { class: "hint" });
  #model = el("dl", { class: "facts" });
  #form = el("div", {}, el("p", { class: "hint" }, "Shown when the server is there."));

  constructor(container, act) {
    this.#act = act;
    const manage = button("Look at the pictures…", act.showShelf);
    container.append(
      section("Pictures from", this.#labelled(), this.#size, manage),
      this.#form,
      section("Model", this.#model),
      section("Colours", colours()),
      el("p", { class: "hint" }, "Other programs can use this server, too: ", docs()),
    );
  }

  get collections() {
    return this.#collections;
  }

  /** The chosen collection's name; null on a server without any. */
  get collection() {
    return this.#choice.value || null;
  }

  showCollections(collections) {
    this.#collections = collections;
    const wanted = this.collection ?? remembered("collection", null);
    const known = collections.find(({ name }) => name === wanted);
    const first = collections.find((one) => one.default) ?? collections[0];
    const options = collections.map(({ name }) => el("option", { value: name }, name));
    this.#choice.replaceChildren(...options);
    this.#choice.disabled = !collections.length;
    this.#choice.value = (known ?? first)?.name ?? "";
    this.#choose(false);
  }

  showModel(model, schema) {
    const started = new Date(model.created * 1000).toLocaleString();
    const rows = [["name", model.id], ["running since", started]];
    for (const [name, value] of Object.entries(model.bundle ?? {})) {
      rows.push([name.replaceAll("_", " "), typeof value === "number" ? number(value) : value]);
    }
    const cells = rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]);
    this.#model.replaceChildren(...cells);
    if (!this.#options) {
      this.#options = new Options(schema.ChatRequest, this.#act.reveal);
      this.#form.replaceChildren(this.#options.element);
    }
  }

  /** Of a request; throws a RangeError where one of them cannot be. */
  options() {
    const collection = this.collection ? { collection: this.collection } : {};
    return { ...collection, ...this.#options?.options() };
  }

  /** Shows what the server refused, if it was one of these options. */
  refuse({ param, message }) {
    this.#options?.refuse(param, message);
  }

  #labelled() {
    const label = el("label", { for: "collection", class: "unseen" }, "Collection");
    return el("div", {}, label, this.#choice);
  }

  #choose(asked = true) {
    const chosen = this.#collections.find(({ name }) => name === this.#choice.value);
    this.#size.textContent = chosen ? `${number(chosen.size)} pictures` : "There is no collection.";
    if (asked) remember("collection", this.#choice.value);
  }
}

function section(title, ...children) {
  return el("section", {}, el("h3", {}, title), ...children);
}

const docs = () => el("a", { href: "/docs", target: "_blank", rel: "noopener" }, "the interface");

function colours() {
  const chosen = String(remembered("theme", null));
  const choices = Object.entries(COLOURS).map(([value, label]) => {
    const input = el("input", { type: "radio", name: "theme", value, checked: value === chosen });
    input.addEventListener("change", () => paint(value));
    return el("label", {}, input, el("span", {}, label));
  });
  return el("div", { class: "segments", role: "radiogroup", "aria-label": "Colours" }, ...choices);
}

function paint(theme) {
  if (theme === "null") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  remember("theme", theme === "null" ? null : theme);
}
