// The list of conversations, and what can be done with one.

import { ask } from "./ask.js";
import { newConversation, UNTITLED } from "./conversation.js";
import { announce, byId, el, working } from "./dom.js";
import { exportHtml, exportJson, importJson } from "./transfer.js";

const HASH = /^#c=([\w-]+)$/;

export class Chats {
  #store;
  #session;
  #leave;
  #refreshing = Promise.resolve();
  #opening = 0;
  #address = null;

  /** `leave()`: a conversation was chosen. */
  constructor(store, session, leave) {
    this.#store = store;
    this.#session = session;
    this.#leave = leave;
    session.addEventListener("change", () => this.#follow());
    addEventListener("hashchange", () => this.open());
    // Not by the address: that says which conversation is open.
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault();
      byId("message").focus();
    });
    const click = (id, handler) => byId(id).addEventListener("click", handler);
    click("new-chat", () => this.start());
    click("rename", () => this.#closing(() => this.#rename()));
    click("export-json", () => this.#closing(() => this.#export(exportJson)));
    click("export-html", () => this.#closing(() => this.#export(exportHtml)));
    click("delete-chat", () => this.#closing(() => this.#delete()));
    click("import", () => byId("import-file").click());
    byId("import-file").addEventListener("change", ({ target }) => this.#import(target));
  }

  /** The conversation that the address names, else a new one. */
  async open() {
    this.#opening += 1;
    try {
      await this.#open(HASH.exec(location.hash)?.[1]);
    } finally {
      this.#opening -= 1;
    }
  }

  async #open(id) {
    if (id && id === this.#session.conversation.id) return;
    // They were about another conversation.
    byId("ask").close();
    byId("menu").hidePopover();
    this.#leave();
    const found = id && (await this.#store.get(id));
    if (HASH.exec(location.hash)?.[1] !== id) return; // somebody went on meanwhile
    if (found && this.#show(found)) return;
    this.#leaveAddress();
    this.#session.show();
    if (found) this.#offerToDelete(id);
  }

  /** False for one that is broken. */
  #show(conversation) {
    try {
      this.#session.show(conversation);
      return true;
    } catch (error) {
      console.warn(error);
      return false;
    }
  }

  async #offerToDelete(id) {
    const title = "That conversation cannot be shown";
    const text = "What this browser has kept of it is broken.";
    if (await ask({ title, text, yes: "Delete it", danger: true })) await this.#session.forget(id);
  }

  start() {
    this.#session.show();
    this.#leave();
    this.#session.composer.focus();
  }

  /** The address names no conversation any more; the way back does not lead to it either. */
  #leaveAddress() {
    history.replaceState(null, "", location.pathname);
    this.#address = location.pathname;
  }

  /** Brings address, title and list in line with the session. */
  #follow() {
    const { id, title, messages } = this.#session.conversation;
    const address = messages.length ? `#c=${id}` : location.pathname;
    const isThere = () => (messages.length ? location.hash === address : !location.hash);
    // The address is ahead of what is shown while a conversation is being opened, and from a way
    // back until `hashchange` tells of it: only another conversation's address is written there.
    if (address !== this.#address && !this.#opening && !isThere()) history.pushState(null, "", address);
    if (isThere()) this.#address = address;
    byId("title").textContent = title;
    document.title = title === UNTITLED ? "FROMAGe" : `${title} – FROMAGe`;
    byId("more").hidden = !messages.length;
    this.#refreshing = this.#refreshing.then(() => this.refresh()).catch(console.error);
  }

  async refresh() {
    const current = this.#session.conversation;
    const all = (await this.#store.list()).filter(({ id }) => id !== current.id);
    if (current.messages.length) all.push(current);
    all.sort((a, b) => b.updated - a.updated);
    const list = byId("chat-list");
    const focused = list.contains(document.activeElement) && document.activeElement.hash;
    list.replaceChildren(...all.map((one) => this.#item(one, one === current)));
    if (focused) list.querySelector(`[href="${focused}"]`)?.focus();
  }

  #item({ id, title }, isCurrent) {
    const props = { href: `#c=${id}`, title, "aria-current": isCurrent ? "page" : null };
    return el("li", {}, el("a", { ...props, on: { click: () => this.#leave() } }, title));
  }

  async #closing(work) {
    byId("menu").hidePopover();
    byId("more").focus();
    await work();
  }

  async #rename() {
    const { conversation } = this.#session;
    const question = { title: "Rename this conversation", yes: "Rename", label: "Title" };
    const title = await ask({ ...question, value: conversation.title });
    if (!title) return;
    await this.#session.rename(conversation.id, title);
  }

  async #export(write) {
    await working("Writing the file…", write(this.#session.conversation, this.#store));
  }

  async #delete() {
    const { conversation } = this.#session;
    const text = `“${conversation.title}” and the pictures sent in it are deleted from this browser.`;
    const title = "Delete this conversation?";
    if (!(await ask({ title, text, yes: "Delete", danger: true }))) return;
    if (conversation.id === this.#session.conversation.id) this.#leaveAddress();
    await this.#session.forget(conversation.id);
    announce("The conversation was deleted.");
    this.#leave();
    this.#session.composer.focus();
  }

  async #import(input) {
    const [file] = input.files;
    input.value = "";
    if (!file) return;
    try {
      await working("Reading the file…", this.#take(file));
      this.#leave();
    } catch (error) {
      this.#session.composer.say(error.message);
    }
  }

  async #take(file) {
    const { conversation, pictures } = await importJson(file);
    const fresh = { ...newConversation(), ...conversation, named: true };
    for (const [id, blob] of pictures) await this.#store.putPicture(id, fresh.id, blob);
    if (this.#show(fresh)) {
      await this.#session.keep();
    } else {
      await this.#store.remove(fresh.id);
      throw new Error(`${file.name} cannot be shown.`);
    }
  }
}
