// The options of a request, with ranges, defaults and words from the server's own schema.

import { button, el } from "./dom.js";
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
function rangeOf(field) {
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
  if (from && to) return `${from} to ${to}`;
  return from ? `from ${from}` : "";
}

/** The value that was written, undefined for none; throws a RangeError that says what is wrong. */
function valueOf(text, range, label) {
  if (text.trim() === "") return undefined;
  if (range.type === "object") return filterOf(text, label);
  const value = Number(text);
  const { min = -Infinity, max = Infinity, above = -Infinity } = range;
  const whole = range.type !== "integer" || Number.isSafeInteger(value);
  if (Number.isFinite(value) && whole && value >= min && value <= max && value > above) return value;
  throw new RangeError(`${label} is ${text.trim()}; it can be ${inWords(range)}.`);
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

/** A line of the form. `changed()` is called when something was written. */
class Field {
  #range;
  #label;
  #problem = el("p", { class: "problem", role: "alert" });

  constructor(name, label, schema, changed) {
    this.#range = rangeOf(schema);
    this.#label = label;
    this.input = this.#entry(`option-${name}`, schema);
    this.input.addEventListener("change", () => {
      this.#look();
      changed();
    });
    const row = el("div", { class: "row" }, el("label", { for: this.input.id }, label), this.input);
    const hint = el("p", { class: "hint", id: `${this.input.id}-hint` }, this.#hint(schema));
    const long = this.#range.type === "object";
    this.element = el("div", { class: long ? "field long" : "field" }, row, hint, this.#problem);
  }

  get kept() {
    return this.input.value;
  }

  set kept(value) {
    this.input.value = value ?? "";
    this.#look();
  }

  /** undefined where the default holds; throws a RangeError. */
  read() {
    return valueOf(this.input.value, this.#range, this.#label);
  }

  refuse(message) {
    this.#say(message);
    this.input.focus();
  }

  /** Says what is wrong, and leaves the focus where it is going. */
  #look() {
    try {
      this.read();
      this.#say("");
    } catch (error) {
      this.#say(error.message);
    }
  }

  #say(problem) {
    this.#problem.textContent = problem;
    if (problem) this.input.setAttribute("aria-invalid", "true");
    else this.input.removeAttribute("aria-invalid");
  }

  #entry(id, schema) {
    const props = { id, autocomplete: "off", spellcheck: "false", "aria-describedby": `${id}-hint` };
    if (this.#range.type === "object") {
      return el("textarea", { ...props, rows: 2, placeholder: '{"background": "green"}' });
    }
    // The number pads of phones have no minus.
    const inputmode = this.#range.min < 0 ? "text" : "decimal";
    return el("input", { ...props, inputmode, placeholder: schema.default ?? "default" });
  }

  #hint({ description = "" }) {
    const limits = inWords(this.#range);
    return limits ? `${limits[0].toUpperCase()}${limits.slice(1)}. ${description}` : description;
  }
}

/** The same for yes and no. */
class Switch {
  #usual;

  constructor(name, label, schema, changed) {
    this.#usual = schema.default;
    const id = `option-${name}`;
    this.input = el("input", { id, type: "checkbox", "aria-describedby": `${id}-hint` });
    this.input.addEventListener("change", changed);
    const row = el("div", { class: "row" }, el("label", { for: id }, label), this.input);
    const hint = el("p", { class: "hint", id: `${id}-hint` }, schema.description ?? "");
    this.element = el("div", { class: "field" }, row, hint);
  }

  get kept() {
    return this.input.checked;
  }

  set kept(value) {
    this.input.checked = value ?? this.#usual;
  }

  read() {
    return this.input.checked === this.#usual ? undefined : this.input.checked;
  }

  refuse() {
    this.input.focus();
  }
}

/** The form; `options()` gives what was chosen, and nothing where the server's default holds. */
export class Options {
  #fields = new Map();
  #reveal;
  element = el("div", { class: "options" });

  /** `schema`: of the chat request; `reveal()` makes the form visible. */
  constructor(schema, reveal) {
    this.#reveal = reveal;
    const kept = remembered("options", {});
    for (const [group, names] of Object.entries(GROUPS)) {
      const fields = Object.entries(names)
        .filter(([name]) => schema.properties[name])
        .map(([name, label]) => this.#add(name, label, schema.properties[name], kept[name]));
      const shown = fields.map(({ element }) => element);
      this.element.append(el("fieldset", {}, el("legend", {}, group), ...shown));
    }
    this.element.append(button("Back to the defaults", () => this.#reset()));
  }

  /** Throws a RangeError, and leads to the field, when a value cannot be. */
  options() {
    const options = {};
    for (const [name, field] of this.#fields) {
      try {
        const value = field.read();
        if (value !== undefined) options[name] = value;
      } catch (error) {
        this.refuse(name, error.message);
        throw error;
      }
    }
    return options;
  }

  /** Leads to the field, if it is one of these, and shows what is wrong with it. */
  refuse(param, message) {
    const field = this.#fields.get(param?.split(".")[0]);
    if (!field) return;
    this.#reveal();
    field.refuse(message);
  }

  #add(name, label, schema, kept) {
    const Kind = schema.type === "boolean" ? Switch : Field;
    const field = new Kind(name, label, schema, () => this.#keep());
    field.kept = kept;
    this.#fields.set(name, field);
    return field;
  }

  #reset() {
    for (const field of this.#fields.values()) field.kept = undefined;
    this.#keep();
  }

  #keep() {
    const fields = [...this.#fields];
    remember("options", Object.fromEntries(fields.map(([name, { kept }]) => [name, kept])));
  }
}
