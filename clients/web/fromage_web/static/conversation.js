// A conversation as it is kept: the messages in the server's own form, with what the page adds.
//
// {id, title, named, created, updated, messages: [{role, content: [part], …}]}; the store adds
// `revision`, a count, and `kept`, when that was.
// A user's picture has `local`: {picture, name} names the blob in the store; `upload` and
// `expires_at` the server's copy of it. A picture that neither the browser nor its collection has
// any longer is `gone`.
// A reply has `state`: streaming, done, stopped, failed.

const TITLE_LENGTH = 60;
export const UNTITLED = "New conversation";

export function newConversation() {
  const now = Date.now();
  return { id: newId(), title: UNTITLED, named: false, created: now, updated: now, messages: [] };
}

/** A name that nothing else has; `randomUUID` is there on secure origins only. */
export function newId() {
  return crypto.randomUUID?.() ?? `${Date.now()}-${Math.random().toString(36).slice(2)}`;
}

export const newReply = () => ({ role: "assistant", content: [], state: "streaming" });

export const textOf = (message) =>
  message.content
    .filter((part) => part.type === "text")
    .map((part) => part.text)
    .join("")
    .trim();

/** The first words said in it. */
export function titleOf(conversation) {
  const first = conversation.messages.find((message) => message.role === "user");
  if (!first) return UNTITLED;
  const text = textOf(first).replace(/\s+/g, " ") || "A picture";
  return text.length > TITLE_LENGTH ? `${text.slice(0, TITLE_LENGTH - 1)}…` : text;
}

/** What the server is to read: its own fields only, and no message that has nothing in it. */
export function toWire(messages) {
  return sent(messages).map(({ message, parts }) => ({
    role: message.role,
    content: parts.map(partToWire),
  }));
}

/** The message and the part that the server means by `param`; null where it means no part. */
export function placeOf(messages, param) {
  const [, message, part] = /^messages\.(\d+)\.content\.(\d+)\./.exec(param ?? "") ?? [];
  const found = sent(messages)[message];
  return found?.parts[part] ? { message: found.message, part: found.parts[part] } : null;
}

function sent(messages) {
  return messages
    .map((message) => ({ message, parts: message.content.filter(({ gone }) => !gone) }))
    .filter(({ parts }) => parts.length);
}

function partToWire(part) {
  if (part.type === "text") return { type: "text", text: part.text };
  if (part.local) return { type: "image", image: { upload: part.local.upload } };
  const { collection, id } = part.image;
  return { type: "image", image: { collection, id } };
}

/** Puts one of the stream's events into the reply. */
export function apply(reply, { event, data }) {
  if (event === "text.delta") {
    const part = (reply.content[data.index] ??= { type: "text", text: "" });
    part.text += data.text;
  } else if (event === "image") {
    const { index, ...part } = data;
    reply.content[index] = part;
  } else if (event === "message.start") {
    reply.model = data.model;
  } else if (event === "message.end") {
    const { finish_reason, usage, timings } = data;
    Object.assign(reply, { state: "done", finish_reason, usage, timings });
  }
}

/** What people call a picture. */
export function nameOf(image) {
  const caption = image.metadata?.caption;
  return typeof caption === "string" && caption ? caption : String(image.key ?? "a picture");
}

/** The reply in words, for screen readers and the clipboard. */
export function inWords(message) {
  const said = (part) =>
    part.type === "text" ? part.text.trim() : `[Picture: ${part.local?.name ?? nameOf(part.image)}]`;
  return message.content.map(said).filter(Boolean).join("\n");
}

/** Whose pictures are shown, as their metadata asks to be told: `OpenMoji (CC BY-SA 4.0)`. */
export function creditsOf(conversation) {
  const credits = new Set();
  for (const part of conversation.messages.flatMap((message) => message.content)) {
    for (const image of [part.image, ...(part.alternatives ?? [])]) {
      const { attribution, license } = image?.metadata ?? {};
      if (attribution) credits.add(withLicense(String(attribution), license));
    }
  }
  return [...credits];
}

function withLicense(attribution, license) {
  return license && !attribution.includes(license) ? `${attribution} (${license})` : attribution;
}
