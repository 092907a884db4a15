// Building elements. Text only ever becomes text nodes: nothing here parses markup.

const SOON_MS = 300;
const SVG = "http://www.w3.org/2000/svg";

/** The element with that id; the page has it. */
export const byId = (id) => document.getElementById(id);

/**
 * An element. `props`: attributes by name (true, false and null as one expects), `on` with event
 * handlers, `data` with data-* values. `children`: nodes, strings, null for nothing.
 */
export function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  const { on = {}, data = {}, ...attributes } = props;
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  for (const [name, handler] of Object.entries(on)) element.addEventListener(name, handler);
  Object.assign(element.dataset, data);
  element.append(...children.filter((child) => child != null));
  return element;
}

/** One of the symbols that index.html defines. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** A button that shows a symbol alone. */
export function iconButton(name, label, handler, props = {}) {
  const button = { type: "button", class: "icon", "aria-label": label, title: label, ...props };
  return el("button", { ...button, on: { click: handler } }, icon(name));
}

export function button(label, handler, props = {}) {
  return el("button", { type: "button", class: "plain", ...props, on: { click: handler } }, label);
}

/** For screen readers: said once, when they have time. */
export function announce(text) {
  byId("announcer").replaceChildren(el("p", {}, text));
}

/** Says what is going on while `work`, a promise, takes its time; resolves as it does. */
export async function working(text, work) {
  const late = setTimeout(() => {
    byId("working-text").textContent = text;
    byId("working").hidden = false;
  }, SOON_MS);
  try {
    return await work;
  } finally {
    clearTimeout(late);
    byId("working").hidden = true;
  }
}

/** The files that are pictures; where the system doesn't know, the server will. */
export function imageFiles(files) {
  return [...(files ?? [])].filter(({ type }) => !type || type.startsWith("image/"));
}

export const number = (value) => value.toLocaleString("en");
