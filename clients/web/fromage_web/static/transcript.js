// The messages of a conversation, on the page.

import { inWords, nameOf, textOf } from "./conversation.js";
import { announce, button, el, icon, iconButton, number } from "./dom.js";
import { elsewhere, isHere, picture } from "./pictures.js";

const SIDE = 280;
const SENT_SIDE = 200;
const WHY = { length: "The reply reached the largest number of tokens." };

/**
 * One reply. It grows with the stream's events; nothing that stands above ever moves.
 * `act`: {open(part), retry()}.
 */
export class ReplyView {
  #act;
  #places = new Map();
  #body = el("div", { class: "body" });
  #foot = el("div", { class: "foot" });

  constructor(reply, act) {
    this.#act = act;
    const heading = el("h3", { class: "who" }, "FROMAGe", el("span", { class: "dots" }));
    this.element = el("article", { class: "reply" }, heading, this.#body, this.#foot);
    reply.content.forEach((part, index) => this.#put(part, index));
    this.update(reply);
  }

  /** Shows one event of the stream, which `reply` has taken in already. */
  take({ event, data }, reply) {
    if (event === "text.delta" && this.#places.has(data.index)) {
      this.#places.get(data.index).appendData(data.text);
    } else if (event === "text.delta" || event === "image") {
      this.#put(reply.content[data.index], data.index);
    }
  }

  /** Shows how the reply stands. */
  update(reply) {
    const { state } = reply;
    this.element.classList.toggle("streaming", state === "streaming");
    this.element.setAttribute("aria-busy", String(state === "streaming"));
    if (state === "streaming") return;
    const notes = notesOn(reply).map((note) => el("p", { class: "remark" }, note));
    const failed = state === "failed";
    const error = failed ? el("p", { class: "problem" }, reply.error) : null;
    const retry = failed || state === "stopped" ? button("Try again", () => this.#act.retry()) : null;
    this.#foot.replaceChildren(...notes, ...[error, retry].filter(Boolean), tools(reply));
  }

  #put(part, index) {
    if (part.type === "text") {
      const text = document.createTextNode(index ? part.text : part.text.trimStart());
      this.#places.set(index, text);
      this.#body.append(el("p", { class: "text" }, text));
    } else {
      this.#group(part.ret_index).append(this.#figure(part));
    }
  }

  /** The pictures of one [RET] stand side by side. */
  #group(ret) {
    const last = this.#body.lastElementChild;
    if (last?.dataset.ret === String(ret)) return last;
    const group = el("div", { class: "pictures", data: { ret } });
    this.#body.append(group);
    return group;
  }

  #figure(part) {
    const { image, alternatives = [] } = part;
    if (!isHere(image)) return elsewhere(image);
    const name = nameOf(image);
    const details = [`similarity ${image.score.toFixed(2)}`];
    if (alternatives.length) details.push(`${alternatives.length} more like it`);
    const label = `${name}: ${details.join(", ")}. Open`;
    const caption = el("span", { class: "over" }, el("b", {}, name), details.join(" · "));
    const props = { type: "button", class: "picture", "aria-label": label };
    props.on = { click: () => this.#act.open(part) };
    return el("figure", {}, el("button", props, picture(image, SIDE), caption));
  }
}

function notesOn({ state, finish_reason, usage, content }) {
  const notes = [];
  if (state === "stopped") notes.push("Stopped.");
  if (WHY[finish_reason]) notes.push(WHY[finish_reason]);
  if (state === "done" && !content.length) notes.push("The model had nothing to say.");
  const dropped = usage?.dropped_turns;
  if (dropped) {
    const turns = dropped === 1 ? "turn no longer fits and is" : `${number(dropped)} turns no longer fit and are`;
    notes.push(`The oldest ${turns} left out.`);
  }
  return notes;
}

function tools(reply) {
  const copy = iconButton("copy", "Copy this reply", async () => {
    await navigator.clipboard.writeText(inWords(reply));
    copy.classList.add("done");
    announce("Copied.");
    setTimeout(() => copy.classList.remove("done"), 1500);
  });
  const { usage, timings } = reply;
  const seconds = timings ? (timings.total_ms / 1000).toFixed(1) : "";
  const words = usage && timings ? `${number(usage.completion_tokens)} tokens in ${seconds} s` : "";
  const has = reply.content.length && navigator.clipboard;
  return el("div", { class: "tools" }, has ? copy : null, el("span", {}, words));
}

/** A user's message. `act`: {edit(), source(part)}; the latter gives a sent picture's address. */
export function userMessage(message, act) {
  const text = textOf(message);
  const parts = message.content.filter((part) => part.type === "image");
  const shown = parts.map((part) => sentPicture(part, act));
  const edit = iconButton("edit", "Edit and send again", act.edit);
  return el(
    "article",
    { class: "user" },
    el("h3", { class: "unseen" }, "You"),
    shown.length ? el("div", { class: "pictures" }, ...shown) : null,
    text ? el("p", { class: "text" }, text) : null,
    el("div", { class: "tools" }, edit),
  );
}

function sentPicture(part, act) {
  const named = { ...part.image, key: part.local?.name ?? part.image.key, url: "data:image/gif," };
  const where = part.local ? "kept by this browser" : "in its collection";
  if (part.gone) return el("figure", {}, lost(named, where));
  const image = part.local ? picture(named, SENT_SIDE) : picture(part.image, SENT_SIDE);
  if (part.local) {
    image.removeAttribute("src");
    act.source(part).then((url) => (url ? (image.src = url) : image.replaceWith(lost(named, where))));
  }
  return el("figure", {}, image);
}

const lost = (image, where) =>
  el("p", { class: "elsewhere" }, nameOf(image), el("span", {}, `no longer ${where}`));

/** What stands there before the first message: a greeting, and examples to click. */
export function welcome(examples, act) {
  const cards = examples.map((example) => {
    const props = { type: "button", class: "example", on: { click: () => act.try(example) } };
    const shown = example.image ? picture(example.image, 44) : icon(example.icon ?? "image");
    return el("li", {}, el("button", props, shown, el("span", {}, example.text)));
  });
  return el(
    "div",
    { class: "welcome" },
    el("img", { src: "/page/icon.svg", alt: "", width: 56, height: 56 }),
    el("h2", {}, "Words and pictures, in one conversation"),
    el("p", {}, act.introduction),
    el("ul", { class: "examples", "aria-label": "Examples to try" }, ...cards),
  );
}
