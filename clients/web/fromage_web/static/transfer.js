// Conversations as files: JSON to come back, a web page to be read anywhere.

import { creditsOf, nameOf, newId, titleOf } from "./conversation.js";
import { el } from "./dom.js";
import { addressOf, isHere } from "./pictures.js";
import { soundMessage } from "./sound.js";

const FORMAT = "fromage-conversation";
const VERSION = 1;
const HEAD =
  '<!doctype html>\n<html lang="en"><meta charset="utf-8">' +
  '<meta name="viewport" content="width=device-width">' +
  "<style>body{font:17px/1.6 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem;" +
  "color:#26221c;background:#fdfcf9}h1{font-size:1.5rem}.user{background:#f1ebdf;padding:.6rem 1rem;" +
  "border-radius:1rem;margin:1.5rem 0 1.5rem 20%}.reply{margin:1.5rem 0}p{margin:.4rem 0;" +
  "white-space:pre-wrap;overflow-wrap:anywhere}img{max-width:18rem;height:auto;border-radius:.7rem;" +
  "margin:.3rem .5rem .3rem 0;vertical-align:top}footer,figcaption{font-size:.85rem;color:#6a6156}" +
  "figure{display:inline-block;margin:0}</style>";

function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = el("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

function fileName({ title }, ending) {
  const plain = title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "");
  return `${plain || "conversation"}.${ending}`;
}

function dataUri(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** The conversation with the pictures that the user sent, as data URIs beside it. */
export async function exportJson(conversation, store) {
  const pictures = {};
  for (const { local } of conversation.messages.flatMap((message) => message.content)) {
    const blob = local && (await store.picture(local.picture));
    if (blob) pictures[local.picture] = await dataUri(blob);
  }
  const whole = { format: FORMAT, version: VERSION, conversation, pictures };
  save(fileName(conversation, "json"), "application/json", JSON.stringify(whole, null, 1));
}

/** Reads what `exportJson` wrote: `{conversation, pictures}`, the pictures as blobs by name. */
export async function importJson(file) {
  const refused = new Error(`${file.name} is not a conversation that this page exported.`);
  let whole;
  try {
    whole = JSON.parse(await file.text());
  } catch {
    throw refused;
  }
  if (whole?.format !== FORMAT || whole.version !== VERSION) throw refused;
  try {
    return soundConversation(whole);
  } catch {
    throw refused;
  }
}

/** With names of its own for the pictures: the same file may be imported twice. */
function soundConversation({ conversation: { title, messages }, pictures = {} }) {
  if (!messages.length) throw new TypeError("there is nothing in it");
  const sound = messages.map(soundMessage);
  const blobs = new Map();
  for (const { local } of sound.flatMap(({ content }) => content)) {
    if (!local || !Object.hasOwn(pictures, local.picture)) continue;
    const blob = blobOf(pictures[local.picture]);
    local.picture = newId();
    blobs.set(local.picture, blob);
  }
  const named = typeof title === "string" && title.trim() ? title : titleOf({ messages: sound });
  return { conversation: { title: named, messages: sound }, pictures: blobs };
}

function blobOf(uri) {
  const [, type, data] = /^data:(image\/[\w.+-]+);base64,([A-Za-z0-9+/=]*)$/.exec(uri);
  return new Blob([Uint8Array.from(atob(data), (char) => char.charCodeAt(0))], { type });
}

/** A page that needs nothing else: its pictures are inside. Elements write themselves as HTML. */
export async function exportHtml(conversation, store) {
  const main = el("main", {}, el("h1", {}, conversation.title));
  for (const message of conversation.messages) {
    const article = el("article", { class: message.role === "user" ? "user" : "reply" });
    for (const part of message.content) article.append(await written(part, store));
    main.append(article);
  }
  const credits = creditsOf(conversation).map((credit) => el("p", {}, `Pictures: ${credit}`));
  const title = el("title", {}, conversation.title).outerHTML;
  const body = main.outerHTML + el("footer", {}, ...credits).outerHTML;
  save(fileName(conversation, "html"), "text/html", `${HEAD}${title}${body}\n`);
}

async function written(part, store) {
  if (part.type === "text") return el("p", {}, part.text.trim());
  const name = part.local?.name ?? nameOf(part.image);
  const blob = await bytesOf(part, store);
  if (blob) {
    return el("figure", {}, el("img", { src: await dataUri(blob), alt: name, title: name }));
  }
  const address = part.local ? null : addressOf(part.image);
  return el("p", {}, address && !isHere(part.image) ? el("a", { href: address }, name) : `[${name}]`);
}

async function bytesOf(part, store) {
  if (part.local) return store.picture(part.local.picture);
  if (!isHere(part.image)) return null;
  try {
    const response = await fetch(part.image.url);
    return response.ok ? await response.blob() : null;
  } catch {
    return null;
  }
}
