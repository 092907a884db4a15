// A conversation out of a file, made anew from the fields that it should have.

const STATES = new Set(["done", "stopped", "failed"]);
const CUT_OFF = { state: "failed", error: "The reply was cut off." };

/** Throws a TypeError where something else stands; what the page doesn't know is left out. */
export function soundMessage({ role, content, ...more }) {
  const parts = check(Array.isArray(content), content).map(soundPart);
  if (role === "user") return { role, content: parts };
  check(role === "assistant", role);
  const { state, error, model, finish_reason, usage, timings } = more;
  return {
    role,
    content: parts,
    ...(STATES.has(state) ? { state, error: optional("string", error) } : CUT_OFF),
    model: optional("string", model),
    finish_reason: optional("string", finish_reason),
    usage: numbers(usage, "completion_tokens"),
    timings: numbers(timings, "total_ms"),
  };
}

function soundPart(part) {
  if (part.type === "text") return { type: "text", text: is("string", part.text) };
  check(part.type === "image", part.type);
  if (part.local) return { type: "image", image: sizeOf(part.image ?? {}), local: soundLocal(part.local) };
  const shown = { type: "image", image: soundImage(part.image), gone: part.gone === true };
  if (part.ret_index === undefined) return shown;
  const alternatives = (part.alternatives ?? []).map(soundImage);
  return { ...shown, ret_index: is("number", part.ret_index), alternatives };
}

/** The server's copy of it is not taken along: it is sent again. */
function soundLocal({ picture, name }) {
  return { picture: is("string", picture), name: is("string", name), expires_at: 0 };
}

function soundImage({ id, collection, key, url, score, metadata, ...more }) {
  return {
    id: is("string", id),
    collection: is("string", collection),
    key: is("string", key),
    url: optional("string", url),
    score: is("number", score),
    ...sizeOf(more),
    metadata: isPlain(metadata) ? metadata : {},
  };
}

function sizeOf({ width, height }) {
  return { width: optional("number", width), height: optional("number", height) };
}

/** Those of its values that are numbers; undefined where `needed` is none. */
function numbers(object, needed) {
  if (typeof object?.[needed] !== "number") return undefined;
  return Object.fromEntries(Object.entries(object).filter(([, value]) => typeof value === "number"));
}

const isPlain = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

const optional = (type, value) => (value == null ? undefined : is(type, value));

const is = (type, value) => check(typeof value === type, value);

function check(sound, value) {
  if (!sound) throw new TypeError(`${JSON.stringify(value)} stands in a wrong place`);
  return value;
}
