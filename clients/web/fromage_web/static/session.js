// One conversation at a time: sending, streaming, stopping, editing, keeping.

import { Addresses } from "./addresses.js";
import { answered, answering } from "./answering.js";
import { inWords, newConversation, newReply, textOf, titleOf } from "./conversation.js";
import { announce, byId } from "./dom.js";
import { Editing } from "./editing.js";
import { Keeper } from "./keeping.js";
import { Replier } from "./replying.js";
import { ReplyView, userMessage } from "./transcript.js";

const KEEP_EVERY_MS = 1000;

/** Fires `change` when the conversation has changed. */
export class Session extends EventTarget {
  #store;
  #keeper;
  #replier;
  #act;
  #answering = Promise.resolve();
  #preparing = false;
  #stopping = null;
  #editing;
  #watched = null;
  #addresses;
  conversation = newConversation();

  /** `act`: {options(), failed(error), open(part), welcome()}; see app.js. */
  constructor(store, composer, scroller, act) {
    super();
    this.#store = store;
    this.#keeper = new Keeper(store);
    this.#replier = new Replier(this.#keeper, (message) => this.#redraw(message));
    this.#addresses = new Addresses(this.#keeper);
    this.#act = act;
    this.composer = composer;
    this.scroller = scroller;
    composer.addEventListener("send", () => this.#sendWritten());
    composer.addEventListener("stop", () => this.stop());
    composer.addEventListener("edit-last", () => this.#editLast());
    this.#editing = new Editing(composer);
    store.addEventListener("elsewhere", ({ detail }) => this.#catchUp(detail));
  }

  get streaming() {
    return this.#stopping !== null;
  }

  /** Shows another conversation, or a new one. One that cannot be shown changes nothing. */
  show(conversation = newConversation()) {
    const views = this.#views(conversation.messages);
    this.stop();
    this.#editing.end();
    this.conversation = conversation;
    this.#addresses.forget();
    this.#fill(views);
    this.#watch();
    this.#changed();
  }

  /** Another tab has changed a conversation; where it is this one, shows what it is now. */
  async #catchUp({ id, ...renamed }) {
    if (id === this.conversation.id) {
      // Its title alone: that is no reason to part.
      if (renamed.revision - 1 === this.conversation.revision) Object.assign(this.conversation, renamed);
      await this.#keeper.done;
      const there = await this.#store.get(id);
      const { revision } = this.conversation;
      if (id !== this.conversation.id) return;
      if (!there && revision) {
        this.show();
        await this.#answering;
        announce("The conversation was deleted in another tab.");
      } else if (there && there.revision !== revision && !this.streaming && !this.#preparing) {
        this.#adopt(there);
      }
    }
    this.#changed();
  }

  /** Goes on with the state that another tab has kept; what is the same is left as it stands. */
  #adopt(there) {
    const { messages } = this.conversation;
    const isOther = (message, i) => JSON.stringify(message) !== JSON.stringify(messages[i]);
    const first = there.messages.findIndex(isOther);
    const same = first < 0 ? there.messages.length : first;
    const views = this.#views(there.messages.slice(same));
    if (messages.indexOf(this.#editing.message) >= same) this.#editing.release();
    this.#cut(same);
    there.messages.splice(0, same, ...messages);
    this.conversation = there;
    byId("messages").append(...views);
    this.scroller.follow();
    this.#watch();
  }

  /** A reply that is on its way in another tab ends, or is cut off when that tab is gone. */
  async #watch() {
    const { id, messages } = this.conversation;
    if (messages.at(-1)?.state !== "streaming" || this.#watched === id) return;
    this.#watched = id;
    const isShown = () => this.conversation.id === id;
    await answered(id, () => (isShown() ? this.conversation.kept ?? 0 : 0));
    this.#watched = null;
    await this.#catchUp({ id });
    const last = this.conversation.messages.at(-1);
    if (!isShown() || this.streaming || last?.state !== "streaming") return;
    Object.assign(last, { state: "failed", error: "The reply was cut off." });
    this.#redraw(last);
  }

  render() {
    this.#fill(this.#views(this.conversation.messages));
  }

  #views(messages) {
    return messages.map((message) => this.#view(message).element);
  }

  #fill(views) {
    byId("messages").replaceChildren(...(views.length ? views : [this.#act.welcome()]));
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
    const written = options && this.composer.take();
    if (!written) return;
    if (this.#editing.message) this.#cutAt(this.#editing.message);
    this.#editing.end();
    await this.#ask({ role: "user", content: written.content }, written.files, options);
  }

  /** The options of a request; null where none can be sent now, or the user went elsewhere. */
  async #allowed() {
    if (this.#preparing || (this.streaming && !this.#stopping.signal.aborted)) return null;
    if (!this.streaming && this.conversation.messages.at(-1)?.state === "streaming") {
      this.composer.say("One moment: this conversation is being answered in another tab.");
      return null;
    }
    this.#preparing = true;
    const { conversation } = this;
    try {
      await this.#answering;
      const options = await this.#act.options();
      return conversation === this.conversation ? options : null;
    } finally {
      this.#preparing = false;
    }
  }

  #ask(message, files, options) {
    const { conversation } = this;
    if (!conversation.messages.length) byId("messages").replaceChildren();
    conversation.messages.push(message);
    if (!conversation.named) conversation.title = titleOf(conversation);
    for (const { local, blob } of files) this.#keeper.keepPicture(local.picture, conversation, blob);
    byId("messages").append(this.#view(message).element);
    return this.#answer(options);
  }

  #answer(options) {
    this.#stopping = new AbortController();
    this.composer.busy = true;
    const { conversation } = this;
    this.#answering = answering(conversation.id, () => this.#answered(conversation, options));
    return this.#answering;
  }

  async #answered(conversation, options) {
    const reply = newReply();
    const view = this.#view(reply);
    const history = conversation.messages.slice();
    conversation.messages.push(reply);
    if (conversation === this.conversation) byId("messages").append(view.element);
    this.scroller.jump();
    announce("FROMAGe is answering.");
    this.#touch(conversation);
    const keeping = setInterval(() => this.#keeper.conversation(conversation), KEEP_EVERY_MS);
    const turn = { history, options, signal: this.#stopping.signal };
    const error = await this.#replier.take(turn, reply, (event) => {
      view.take(event, reply);
      this.scroller.follow();
    });
    clearInterval(keeping);
    if (error) this.#act.failed(error);
    this.#stopping = null;
    this.composer.busy = false;
    view.update(reply);
    this.scroller.follow();
    announce(reply.state === "failed" ? `No reply: ${reply.error}` : `FROMAGe: ${inWords(reply)}`);
    this.#touch(conversation);
    await this.#keeper.done;
  }

  #redraw(message) {
    const place = this.conversation.messages.indexOf(message);
    byId("messages").children[place]?.replaceWith(this.#view(message).element);
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
      const blob = part.local && (await this.#keeper.picture(part.local.picture));
      if (blob || !part.local) pictures.push({ part, blob });
    }
    const place = this.conversation.messages.indexOf(message);
    const element = byId("messages").children[place];
    if (element) this.#editing.begin(message, element, textOf(message), pictures);
  }

  #editLast() {
    const last = this.conversation.messages.findLast(({ role }) => role === "user");
    if (last) this.#edit(last);
  }

  /** Takes the message away, and all that follows it. */
  #cutAt(message) {
    this.#cut(this.conversation.messages.indexOf(message));
  }

  #cut(place) {
    this.conversation.messages.splice(place);
    [...byId("messages").children].slice(place).forEach((element) => element.remove());
  }

  #view(message) {
    if (message.role === "assistant") {
      const { open } = this.#act;
      return new ReplyView(message, { open, retry: () => this.#retry() });
    }
    const act = { edit: () => this.#edit(message), source: (part) => this.#addresses.of(part.local.picture) };
    return { element: userMessage(message, act) };
  }

  #touch(conversation) {
    conversation.updated = Date.now();
    const { id } = conversation;
    this.#keeper.conversation(conversation).then(() => id === conversation.id || this.#changed());
    this.#changed();
  }

  /** Keeps the conversation that is shown. */
  async keep() {
    await this.#keeper.conversation(this.conversation);
    this.#changed();
  }

  /** Whichever conversation is shown meanwhile. */
  async rename(id, title) {
    const apply = (renamed) => id === this.conversation.id && Object.assign(this.conversation, renamed);
    await this.#keeper.rename(id, title, apply);
    this.#changed();
  }

  /** Deletes that conversation; a new one stands in its place. */
  async forget(id) {
    if (id === this.conversation.id) this.show();
    await this.#answering;
    await this.#keeper.remove(id);
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
