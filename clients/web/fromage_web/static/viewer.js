// A picture by itself: how well it fits, what else would, and where it comes from.

import { closeOutside } from "./ask.js";
import { nameOf } from "./conversation.js";
import { button, byId, el, iconButton } from "./dom.js";
import { addressOf, elsewhere, isHere, picture } from "./pictures.js";

const LARGE = 480;
const SMALL = 84;
const SHOWN_ELSEWHERE = new Set(["caption"]);

export class Viewer {
  #dialog = byId("picture");
  #onUse;

  /** `onUse(image)`: the user wants to ask about it. */
  constructor(onUse) {
    this.#onUse = onUse;
    closeOutside(this.#dialog);
  }

  /** Shows the image of a reply's part, and its alternatives to look at. */
  open({ image, alternatives = [] }) {
    this.#show(image, [image, ...alternatives]);
    this.#dialog.showModal();
  }

  #show(image, all) {
    const close = iconButton("close", "Close", () => this.#dialog.close());
    const use = button("Ask about this picture", () => {
      this.#dialog.close();
      this.#onUse(image);
    });
    const view = isHere(image) ? picture(image, LARGE) : elsewhere(image);
    const side = el(
      "div",
      { class: "about" },
      el("h2", { id: "picture-title" }, nameOf(image)),
      meter(image.score),
      facts(image),
      el("div", { class: "buttons" }, use, original(image)),
    );
    const head = el("div", { class: "corner" }, close);
    this.#dialog.replaceChildren(
      head,
      el("div", { class: "viewer" }, el("div", { class: "large" }, view), side),
      ...this.#others(image, all),
    );
  }

  #others(image, all) {
    if (all.length < 2) return [];
    const items = all.map((one, place) => {
      const choose = () => {
        this.#show(one, all);
        this.#dialog.querySelector(`[data-place="${place}"]`).focus();
      };
      const label = `${nameOf(one)}, similarity ${one.score.toFixed(2)}`;
      const pressed = String(one === image);
      const props = { type: "button", class: "picture", "aria-label": label, "aria-pressed": pressed };
      const shown = isHere(one) ? picture(one, SMALL) : el("span", { class: "unseen-one" }, "link");
      const score = el("span", { class: "score" }, one.score.toFixed(2));
      const data = { place: String(place) };
      return el("li", {}, el("button", { ...props, data, on: { click: choose } }, shown, score));
    });
    const heading = el("h3", { id: "others" }, "What fitted best");
    return [heading, el("ul", { class: "others", "aria-labelledby": "others" }, ...items)];
  }
}

function meter(score) {
  if (typeof score !== "number") return null;
  const props = { min: -1, max: 1, value: score, "aria-label": "Similarity, from -1 to 1" };
  return el("p", { class: "meter" }, el("meter", props), `similarity ${score.toFixed(3)}`);
}

/** Where it comes from and what its owner says of it. */
function facts(image) {
  const rows = [["collection", image.collection], ["file", image.key]];
  if (image.width) rows.push(["size", `${image.width} × ${image.height}`]);
  for (const [name, value] of Object.entries(image.metadata ?? {})) {
    if (!SHOWN_ELSEWHERE.has(name)) rows.push([name, plain(value)]);
  }
  const cells = rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]);
  return el("dl", { class: "facts" }, ...cells);
}

function plain(value) {
  if (Array.isArray(value)) return value.map(plain).join(", ");
  return typeof value === "object" && value ? JSON.stringify(value) : String(value);
}

function original(image) {
  const href = addressOf(image);
  if (!href || href.startsWith("data:")) return null;
  const props = { href, target: "_blank", rel: "noopener noreferrer", class: "plain" };
  return el("a", props, isHere(image) ? "Open the original" : "Open the source");
}
