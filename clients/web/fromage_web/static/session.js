// One conversation at a time: sending, streaming, stopping, editing, keeping.

import { ApiFailure, chat, upload } from "./api.js";
import { apply, inWords, newConversation, newReply, textOf, titleOf, toWire } from "./conversation.js";
import { announce, byId } from "./dom.js";
import { ReplyView, userMessage } from "./transcript.js";

const KEEP_EVERY_MS = 1000;
const EXPIRES_EARLY_S = 30;

/** Fires `change` when the conversation has changed, `lost` when the server did not answer. */
export class Session extends EventTarget {
  #store;
  #act;
  #keeping = Promise.resolve();
  #answering = Promise.resolve();
  #stopping = null;
  #editing = null;
  conversation = newConversation();

  /** `act`: {options(), refuse(error), open(part), welcome()}; see app.js. */
  constructor(store, composer, scroller, act) {
    super();
    this.#store = store;
    this.#act = act;
    this.composer = composer;
    this.scroller = scroller;
    composer.addEventListener("send", () => this.#sendWritten());
    composer.addEventListener("stop", () => this.stop());
    composer.addEventListener("edit-last", () => this.#editLast());
    byId("cancel-edit").addEventListener("click", () => this.#endEditing(true));
  }

  get streaming() {
    return this.#stopping !== null;
  }

  /** Shows another conversation, or a new one. */
  show(conversation = newConversation()) {
    this.stop();
    if (this.#editing) this.#endEditing(true);
    this.conversation = conversation;
    const last = conversation.messages.at(-1);
    if (last?.state === "streaming") {
      // The page was closed meanwhile.
      Object.assign(last, { state: "failed", error: "The reply was cut off." });
    }
    this.render();
    this.#changed();
  }

  render() {
    const shown = this.conversation.messages.map((message) => this.#view(message).element);
    byId("messages").replaceChildren(...(shown.length ? shown : [this.#act.welcome()]));
    this.scroller.jump();
  }

  stop() {
    this.#stopping?.abort();
  }

  /** Sends a message of these parts; `files`: the blobs of those that are the user's own. */
  async send(content, files = []) {
    const options = this.#act.options();
    if (!options || this.streaming) return;
    const message = { role: "user", content };
    const { messages } = this.conversation;
    if (!messages.length) byId("messages").replaceChildren();
    messages.push(message);
    if (!this.conversation.named) this.conversation.title = titleOf(this.conversation);
    for (const { local, blob } of files) this.#keepPicture(local.picture, blob);
    byId("messages").append(this.#view(message).element);
    await this.#answer(options);
  }

  async #sendWritten() {
    const { content, files } = this.composer;
    if (!this.#act.options() || this.streaming) return;
    if (this.#editing) this.#cutAt(this.#editing);
    const kept = files.map(({ local, blob }) => ({ local, blob }));
    this.composer.clear();
    this.#endEditing(false);
    await this.send(content, kept);
  }

  #answer(options) {
    this.#answering = this.#answered(options);
    return this.#answering;
  }

  async #answered(options) {
    const reply = newReply();
    const view = this.#view(reply);
    const conversation = this.conversation;
    const history = conversation.messages.slice();
    conversation.messages.push(reply);
    byId("messages").append(view.element);
    this.scroller.jump();
    this.#stopping = new AbortController();
    this.composer.busy = true;
    announce("FROMAGe is answering.");
    this.#touch(conversation);
    const { signal } = this.#stopping;
    try {
      await this.#stream({ conversation, history, reply, view, options, signal });
    } catch (error) {
      this.#failed(reply, error);
    }
    this.#stopping = null;
    this.composer.busy = false;
    view.update(reply);
    this.scroller.follow();
    announce(reply.state === "failed" ? `No reply: ${reply.error}` : `FROMAGe: ${inWords(reply)}`);
    this.#touch(conversation);
  }

  async #stream(turn) {
    await this.#renewUploads(turn, false);
    try {
      await this.#take(turn);
    } catch (error) {
      if (error.code !== "upload_not_found") throw error;
      // The server has been started anew, or needed the room.
      await this.#renewUploads(turn, true);
      await this.#take(turn);
    }
  }

  async #take({ conversation, history, reply, view, options, signal }) {
    let keptAt = Date.now();
    const body = { ...options, messages: toWire(history), truncation: "oldest_turns" };
    for await (const event of chat(body, signal)) {
      apply(reply, event);
      view.take(event, reply);
      this.scroller.follow();
      if (Date.now() - keptAt > KEEP_EVERY_MS) {
        keptAt = Date.now();
        this.#keep(conversation);
      }
    }
  }

  #failed(reply, error) {
    if (error.name === "AbortError") {
      reply.state = "stopped";
      return;
    }
    reply.state = "failed";
    reply.error = error.message;
    if (!(error instanceof ApiFailure)) console.error(error);
    this.#act.refuse(error);
    this.dispatchEvent(new Event("lost"));
  }

  /** Sends pictures again whose copy on the server is gone, or with `all` every one. */
  async #renewUploads({ history, signal }, all) {
    const soon = Date.now() / 1000 + EXPIRES_EARLY_S;
    for (const { local } of history.flatMap((message) => message.content)) {
      if (!local || (!all && local.expires_at > soon)) continue;
      const blob = await this.#store.picture(local.picture);
      if (!blob) throw new ApiFailure(`${local.name} is no longer kept by this browser.`, { code: "lost" });
      const { id, expires_at } = await upload(blob, signal);
      Object.assign(local, { upload: id, expires_at });
    }
  }

  /** Asks for the last reply once more. */
  async #retry() {
    const options = this.#act.options();
    if (this.streaming || !options) return;
    this.#cutAt(this.conversation.messages.at(-1));
    this.composer.focus();
    await this.#answer(options);
  }

  async #edit(message) {
    if (this.streaming) return;
    const pictures = [];
    for (const part of message.content.filter(({ type }) => type === "image")) {
      const blob = part.local && (await this.#store.picture(part.local.picture));
      if (blob || !part.local) pictures.push({ part, blob });
    }
    this.#endEditing(true);
    this.#editing = message;
    byId("editing").hidden = false;
    this.#mark(message, true);
    this.composer.fill(textOf(message), pictures);
  }

  #editLast() {
    const last = this.conversation.messages.findLast(({ role }) => role === "user");
    if (last) this.#edit(last);
  }

  #endEditing(clear) {
    if (this.#editing) this.#mark(this.#editing, false);
    if (this.#editing && clear) this.composer.clear();
    this.#editing = null;
    byId("editing").hidden = true;
  }

  #mark(message, editing) {
    const place = this.conversation.messages.indexOf(message);
    byId("messages").children[place]?.classList.toggle("edited", editing);
  }

  /** Takes the message away, and all that follows it. */
  #cutAt(message) {
    const place = this.conversation.messages.indexOf(message);
    this.conversation.messages.splice(place);
    [...byId("messages").children].slice(place).forEach((element) => element.remove());
  }

  #view(message) {
    if (message.role === "assistant") {
      const { open } = this.#act;
      return new ReplyView(message, { open, retry: () => this.#retry() });
    }
    const act = { edit: () => this.#edit(message), source: (part) => this.#source(part) };
    return { element: userMessage(message, act) };
  }

  async #source(part) {
    await this.#keeping;
    const blob = await this.#store.picture(part.local.picture);
    return blob && URL.createObjectURL(blob);
  }

  #touch(conversation) {
    conversation.updated = Date.now();
    this.#keep(conversation);
    this.#changed();
  }

  #keepPicture(picture, blob) {
    const { id } = this.conversation;
    this.#keeping = this.#keeping.then(() => this.#store.putPicture(picture, id, blob));
  }

  /** One after another: a later state must not be overtaken by an earlier one. */
  #keep(conversation) {
    this.#keeping = this.#keeping.then(() => this.#store.put(conversation)).catch(console.error);
    return this.#keeping;
  }

  /** Keeps what was changed from outside, such as the title. */
  async keep() {
    await this.#keep(this.conversation);
    this.#changed();
  }

  /** Deletes the conversation. */
  async forget() {
    const { id } = this.conversation;
    this.stop();
    await this.#answering;
    await this.#keeping;
    await this.#store.remove(id);
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
