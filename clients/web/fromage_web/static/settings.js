// The options of a request, with ranges, defaults and words from the server's own schema.

import { el } from "./dom.js";
import { remember, remembered } from "./prefs.js";

const GROUPS = {
  Wording: {
    temperature: "Temperature",
    top_p: "Top p",
    top_k: "Top k",
    seed: "Seed",
    max_tokens: "Longest reply, in tokens",
    min_word_tokens: "Words before the first picture",
  },
  Pictures: {
    max_num_rets: "Places with pictures in a reply",
    max_img_per_ret: "Pictures at one place",
    ret_scale_factor: "Eagerness to show pictures",
    min_score: "Least similarity",
    exclude_shown: "Never the same picture twice",
    filter: "Only pictures whose metadata match",
  },
};

/** What the schema says of a field: its type and its limits, inclusive. */
export function rangeOf(field) {
  const of = field.anyOf?.find(({ type }) => type !== "null") ?? field;
  const whole = of.type === "integer";
  const beyond = (value, by) => (value === undefined || !whole ? value : value + by);
  return {
    type: of.type,
    min: of.minimum ?? beyond(of.exclusiveMinimum, 1),
    max: of.maximum ?? beyond(of.exclusiveMaximum, -1),
    above: whole ? undefined : of.exclusiveMinimum,
  };
}

function inWords({ min, max, above }) {
  const large = (value) => (value > 1e9 ? null : value.toLocaleString("en"));
  const from = above !== undefined ? `above ${large(above)}` : min !== undefined ? large(min) : null;
  const to = max === undefined ? null : large(max);
  if (from && to) return `${from} to ${to}. `;
  return from ? `From ${from}. ` : "";
}

/** The value that was written, undefined for none; throws a RangeError that says what is wrong. */
export function valueOf(text, range, label) {
  if (text.trim() === "") return undefined;
  if (range.type === "object") return filterOf(text, label);
  const value = Number(text);
  const { min = -Infinity, max = Infinity, above = -Infinity } = range;
  const whole = range.type !== "integer" || Number.isSafeInteger(value);
  if (Number.isFinite(value) && whole && value >= min && value <= max && value > above) return value;
  throw new RangeError(`${label} is ${text.trim()}; it can be ${inWords(range).replace(". ", "")}.`);
}

function filterOf(text, label) {
  try {
    const value = JSON.parse(text);
    if (value && typeof value === "object" && !Array.isArray(value)) return value;
  } catch {
    // Said below.
  }
  throw new RangeError(`${label}: write JSON such as {"background": "green"}.`);
}

/** The form; `options()` gives what was chosen, and nothing where the server's default holds. */
export class Options {
  #fields = new Map();
  element = el("div", { class: "options" });

  /** `schema`: of the chat request. */
  constructor(schema) {
    const kept = remembered("options", {});
    for (const [group, names] of Object.entries(GROUPS)) {
      const known = Object.entries(names).filter(([name]) => schema.properties[name]);
      const fields = known.map(([name, label]) =>
        this.#field(name, label, schema.properties[name], kept[name]),
      );
      this.element.append(el("fieldset", {}, el("legend", {}, group), ...fields));
    }
    const reset = { type: "button", class: "plain", on: { click: () => this.#reset() } };
    this.element.append(el("button", reset, "Back to the defaults"));
  }

  /** Throws a RangeError, and shows where, when a value cannot be. */
  options() {
    const options = {};
    for (const [name, field] of this.#fields) {
      const value = field.read();
      if (value !== undefined) options[name] = value;
    }
    return options;
  }

  /** Shows what the server said of a field; whether there is such a field. */
  refuse(param, message) {
    const field = this.#fields.get(param?.split(".")[0]);
    field?.refuse(message);
    return Boolean(field);
  }

  #field(name, label, schema, kept) {
    if (schema.type === "boolean") return this.#switch(name, label, schema, kept);
    const range = rangeOf(schema);
    const id = `option-${name}`;
    const long = range.type === "object";
    const input = el(long ? "textarea" : "input", {
      id,
      rows: long ? 2 : null,
      inputmode: long ? null : range.min < 0 ? "text" : "decimal",
      autocomplete: "off",
      spellcheck: "false",
      placeholder: long ? '{"background": "green"}' : (schema.default ?? "default"),
      "aria-describedby": `${id}-hint`,
    });
    input.value = kept ?? "";
    const problem = el("p", { class: "problem", role: "alert" });
    const read = () => valueOf(input.value, range, label);
    const refuse = (message) => {
      problem.textContent = message;
      input.setAttribute("aria-invalid", "true");
      input.focus();
    };
    input.addEventListener("change", () => {
      problem.textContent = "";
      input.removeAttribute("aria-invalid");
      this.#attempt(read, refuse);
      this.#keep();
    });
    this.#fields.set(name, {
      input,
      read: () => this.#attempt(read, refuse, true),
      refuse,
      clear: () => {
        input.value = "";
        input.dispatchEvent(new Event("change"));
      },
    });
    const hint = el("p", { class: "hint", id: `${id}-hint` }, inWords(range), schema.description ?? "");
    const row = el("div", { class: "row" }, el("label", { for: id }, label), input);
    return el("div", { class: long ? "field long" : "field" }, row, hint, problem);
  }

  #switch(name, label, schema, kept) {
    const id = `option-${name}`;
    const input = el("input", { id, type: "checkbox", "aria-describedby": `${id}-hint` });
    input.checked = kept ?? schema.default;
    input.addEventListener("change", () => this.#keep());
    this.#fields.set(name, {
      input,
      read: () => (input.checked === schema.default ? undefined : input.checked),
      refuse: () => input.focus(),
      clear: () => (input.checked = schema.default),
    });
    const hint = el("p", { class: "hint", id: `${id}-hint` }, schema.description ?? "");
    const row = el("div", { class: "row" }, el("label", { for: id }, label), input);
    return el("div", { class: "field" }, row, hint);
  }

  #attempt(read, refuse, again = false) {
    try {
      return read();
    } catch (error) {
      refuse(error.message);
      if (again) throw error;
      return undefined;
    }
  }

  #reset() {
    this.#fields.forEach((field) => field.clear());
    this.#keep();
  }

  #keep() {
    const values = {};
    for (const [name, { input }] of this.#fields) {
      values[name] = input.type === "checkbox" ? input.checked : input.value;
    }
    remember("options", values);
  }
}
