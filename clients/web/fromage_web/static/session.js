// One conversation at a time: sending, streaming, stopping, editing, keeping.

import { ApiFailure, chat } from "./api.js";
import { ALIVE_MS, answeredElsewhere, apply, inWords, newConversation } from "./conversation.js";
import { newReply, textOf, titleOf, toWire } from "./conversation.js";
import { announce, byId } from "./dom.js";
import { Keeper } from "./keeping.js";
import { Mender } from "./mending.js";
import { ReplyView, userMessage } from "./transcript.js";

const KEEP_EVERY_MS = 1000;

/** Fires `change` when the conversation has changed, `lost` when the server did not answer. */
export class Session extends EventTarget {
  #store;
  #keeper;
  #mender;
  #act;
  #answering = Promise.resolve();
  #preparing = false;
  #stopping = null;
  #editing = null;
  conversation = newConversation();

  /** `act`: {options(), refuse(error), open(part), welcome()}; see app.js. */
  constructor(store, composer, scroller, act) {
    super();
    this.#store = store;
    this.#keeper = new Keeper(store);
    this.#mender = new Mender(store, (message) => this.#redraw(message));
    this.#act = act;
    this.composer = composer;
    this.scroller = scroller;
    composer.addEventListener("send", () => this.#sendWritten());
    composer.addEventListener("stop", () => this.stop());
    composer.addEventListener("edit-last", () => this.#editLast());
    composer.addEventListener("cancel", () => this.#endEditing());
    byId("cancel-edit").addEventListener("click", () => this.#endEditing());
    store.addEventListener("elsewhere", ({ detail }) => this.#catchUp(detail));
  }

  get streaming() {
    return this.#stopping !== null;
  }

  /** Shows another conversation, or a new one. */
  show(conversation = newConversation()) {
    this.stop();
    this.#endEditing();
    this.#display(conversation);
    this.#changed();
  }

  #display(conversation) {
    this.conversation = conversation;
    if (answeredElsewhere(conversation)) {
      setTimeout(() => this.#catchUp(conversation.id), ALIVE_MS);
    }
    this.render();
  }

  /** Another tab has changed a conversation: if it is this one, shows what it is now. */
  async #catchUp(id) {
    const shown = () => id === this.conversation.id && !this.streaming && !this.#preparing;
    if (shown()) {
      await this.#keeper.done;
      const there = await this.#store.get(id);
      if (!shown()) return;
      if (there) {
        this.#forgetEditing();
        this.#display(there);
      } else if (this.conversation.revision) {
        announce("The conversation was deleted in another tab.");
        this.show();
      }
    }
    this.#changed();
  }

  render() {
    const shown = this.conversation.messages.map((message) => this.#view(message).element);
    byId("messages").replaceChildren(...(shown.length ? shown : [this.#act.welcome()]));
    this.scroller.jump();
  }

  stop() {
    this.#stopping?.abort();
    this.composer.busy = false;
  }

  /** Sends a message of these parts; `files`: the blobs of those that are the user's own. */
  async send(content, files = []) {
    const options = await this.#allowed();
    if (options) await this.#ask({ role: "user", content }, files, options);
  }

  async #sendWritten() {
    const options = await this.#allowed();
    if (!options || this.composer.empty) return;
    const { content, files } = this.composer;
    const kept = files.map(({ local, blob }) => ({ local, blob }));
    if (this.#editing) this.#cutAt(this.#editing.message);
    this.composer.clear();
    this.#endEditing();
    await this.#ask({ role: "user", content }, kept, options);
  }

  /** The options of a request; null where none can be sent now. */
  async #allowed() {
    if (this.#preparing || (this.streaming && !this.#stopping.signal.aborted)) return null;
    this.#preparing = true;
    try {
      await this.#answering;
      return await this.#act.options();
    } finally {
      this.#preparing = false;
    }
  }

  #ask(message, files, options) {
    const { conversation } = this;
    if (!conversation.messages.length) byId("messages").replaceChildren();
    conversation.messages.push(message);
    if (!conversation.named) conversation.title = titleOf(conversation);
    for (const { local, blob } of files) this.#keeper.picture(local.picture, conversation, blob);
    byId("messages").append(this.#view(message).element);
    return this.#answer(options);
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
    await this.#mender.prepare(turn);
    for (;;) {
      try {
        await this.#take(turn);
        return;
      } catch (error) {
        if (!(await this.#mender.mended(turn, error))) throw error;
      }
    }
  }

  #redraw(message) {
    const place = this.conversation.messages.indexOf(message);
    byId("messages").children[place]?.replaceWith(this.#view(message).element);
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
        this.#keeper.conversation(conversation);
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

  /** Asks for the last reply once more. */
  async #retry() {
    const options = await this.#allowed();
    if (!options) return;
    this.#cutAt(this.conversation.messages.at(-1));
    this.composer.focus();
    await this.#answer(options);
  }

  async #edit(message) {
    if (this.streaming) return;
    const pictures = [];
    for (const part of message.content.filter(({ type, gone }) => type === "image" && !gone)) {
      const blob = part.local && (await this.#store.picture(part.local.picture));
      if (blob || !part.local) pictures.push({ part, blob });
    }
    this.#endEditing();
    this.#editing = { message, draft: this.composer.setAside() };
    byId("editing").hidden = false;
    this.#mark(message, true);
    this.composer.fill(textOf(message), pictures);
  }

  #editLast() {
    const last = this.conversation.messages.findLast(({ role }) => role === "user");
    if (last) this.#edit(last);
  }

  /** What had been begun before stands there again. */
  #endEditing() {
    if (!this.#editing) return;
    const { message, draft } = this.#editing;
    this.#mark(message, false);
    this.composer.clear();
    this.composer.putBack(draft);
    this.#forgetEditing();
  }

  /** What is written becomes a message of its own. */
  #forgetEditing() {
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
    await this.#keeper.done;
    const blob = await this.#store.picture(part.local.picture);
    return blob && URL.createObjectURL(blob);
  }

  #touch(conversation) {
    conversation.updated = Date.now();
    const { id } = conversation;
    this.#keeper.conversation(conversation).then(() => id === conversation.id || this.#changed());
    this.#changed();
  }

  /** Keeps what was changed from outside, such as the title. */
  async keep() {
    await this.#keeper.conversation(this.conversation);
    this.#changed();
  }

  /** Deletes the conversation. */
  async forget() {
    const { conversation } = this;
    this.stop();
    await this.#answering;
    await this.#keeper.remove(conversation);
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
