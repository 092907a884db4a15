// The server's HTTP interface; every failure becomes an ApiFailure with a message for people.

import { events } from "./sse.js";

export class ApiFailure extends Error {
  /** `code` and `param` as in the server's envelope; `unreachable` where no answer came. */
  constructor(message, { code = "unreachable", param = null } = {}) {
    super(message);
    this.code = code;
    this.param = param;
  }
}

const UNREACHABLE = "The server does not answer.";
const path = (...names) => names.map(encodeURIComponent).join("/");

async function fetched(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiFailure(UNREACHABLE);
  }
  if (!response.ok) throw await failure(response);
  return response;
}

async function failure(response) {
  try {
    const { error } = await response.json();
    return new ApiFailure(error.message, error);
  } catch {
    return new ApiFailure(`The server answered ${response.status}.`, { code: "unknown" });
  }
}

async function json(url, options) {
  const response = await fetched(url, options);
  return response.status === 204 ? null : response.json();
}

const posted = (body, method = "POST") => ({
  method,
  headers: { "content-type": "application/json" },
  body: JSON.stringify(body),
});

/** Resolves when the server is ready; else the failure's message says what it is doing. */
export const ready = () => json("/readyz", { cache: "no-store" });
export const schema = async () => (await json("/openapi.json")).components.schemas;
export const models = async () => (await json("/v1/models")).data;

export const collections = async () => (await json("/v1/collections")).collections;
export const createCollection = (name) => json("/v1/collections", posted({ name }));
export const dropCollection = (name) =>
  json(`/v1/collections/${path(name)}`, { method: "DELETE" });

/** A page of a collection: `{images, next, total}`. */
export function listImages(name, after, limit = 60) {
  const query = new URLSearchParams({ limit, ...(after ? { after } : {}) });
  return json(`/v1/collections/${path(name)}/images?${query}`);
}

/** Adds one file, under its own name; what became of it. */
export async function addImage(name, file) {
  const form = new FormData();
  form.append("file", file, file.name);
  const url = `/v1/collections/${path(name)}/images`;
  return (await json(url, { method: "POST", body: form })).images[0];
}

export const deleteImage = (name, id) =>
  json(`/v1/collections/${path(name)}/images/${path(id)}`, { method: "DELETE" });

export const retrieve = async (body) => (await json("/v1/retrieve", posted(body))).images;

/** Sends a picture ahead of its message: `{id, width, height, expires_at}`. */
export function upload(blob, signal) {
  const headers = { "content-type": blob.type || "image/png" };
  return json("/v1/uploads", { method: "POST", headers, body: blob, signal });
}

/** The events of a reply, as `{event, data}`; an `error` event is thrown as an ApiFailure. */
export async function* chat(body, signal) {
  const response = await fetched("/v1/chat", { ...posted({ ...body, stream: true }), signal });
  let whole = false;
  try {
    for await (const event of events(response.body)) {
      if (event.event === "error") throw new ApiFailure(event.data.error.message, event.data.error);
      whole = event.event === "message.end";
      yield event;
    }
  } catch (error) {
    if (error instanceof ApiFailure || error.name === "AbortError") throw error;
  }
  if (!whole) throw new ApiFailure("The connection was lost before the reply was whole.");
}
