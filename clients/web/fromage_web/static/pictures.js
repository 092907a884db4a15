// Pictures as the page shows them, in boxes that have their size before the picture is there.

import { nameOf } from "./conversation.js";
import { el } from "./dom.js";

const OWN = /^(\/v1\/images\/|data:image\/|blob:)/;
const ELSEWHERE = /^https?:\/\//;
const THUMBNAIL_FROM = 512;
// Small pictures may be shown a little larger than they are.
const MOST_GROWN = 1.5;

/** Whether the server (or this page) has the picture itself, and not only its address. */
export const isHere = (image) => OWN.test(image.url ?? "");

/** An address that is safe to follow, or null. */
export const addressOf = (image) =>
  isHere(image) || ELSEWHERE.test(image.url ?? "") ? image.url : null;

/** The picture within `limit` CSS pixels; `lazy` for those that may be far down. */
export function picture(image, limit, { lazy = false } = {}) {
  const [width, height] = fitted(image, limit);
  const props = { alt: nameOf(image), width, height, decoding: "async" };
  const shown = el("img", { ...props, src: source(image, limit), loading: lazy ? "lazy" : null });
  // Whatever the file turns out to be, the box stays.
  shown.style.aspectRatio = `${width} / ${height}`;
  return shown;
}

/** In place of a picture of which only the address is known: this page loads nothing from there. */
export function elsewhere(image) {
  const address = addressOf(image);
  const link = { href: address, target: "_blank", rel: "noopener noreferrer" };
  const name = nameOf(image);
  return el(
    "p",
    { class: "elsewhere" },
    address ? el("a", link, name) : name,
    el("span", {}, "kept elsewhere; this page does not load it"),
  );
}

function fitted({ width, height }, limit) {
  if (!width || !height) return [limit, limit];
  const scale = Math.min(limit / Math.max(width, height), MOST_GROWN);
  return [Math.round(width * scale), Math.round(height * scale)];
}

function source({ url, width, height }, limit) {
  const large = Math.max(width ?? 0, height ?? 0) > THUMBNAIL_FROM;
  return large && url?.startsWith("/v1/images/") ? `${url}?size=${2 * limit}` : url;
}
