// Puts the page together.

import * as api from "./api.js";
import { Chats } from "./chats.js";
import { Composer } from "./composer.js";
import { creditsOf } from "./conversation.js";
import { byId, el } from "./dom.js";
import { openDrawers } from "./drawers.js";
import { examplesFor, illustrated } from "./examples.js";
import { Panel } from "./panel.js";
import { Scroller } from "./scroller.js";
import { Session } from "./session.js";
import { Shelf } from "./shelf.js";
import { ServerStatus } from "./status.js";
import { Store } from "./store.js";
import { welcome } from "./transcript.js";
import { Viewer } from "./viewer.js";

const AGAIN_MS = 2000;

class App {
  #status = new ServerStatus();
  #composer = new Composer();
  #shelf = new Shelf();
  #drawers = openDrawers();
  #panel = new Panel(byId("settings-body"), {
    showShelf: () => this.#openShelf(),
    reveal: () => this.#drawers.settings.show(),
  });
  #viewer = new Viewer((image) => this.#composer.addImage(image));
  #greeting = null;
  #session;

  async start() {
    const store = await Store.open((refusal) => {
      byId("refusal").textContent = refusal;
      byId("refusal").hidden = !refusal;
    });
    this.#session = new Session(store, this.#composer, new Scroller(), {
      options: () => this.#options(),
      refuse: (error) => this.#panel.refuse(error),
      open: (part) => this.#viewer.open(part),
      welcome: () => this.#welcome(),
    });
    this.#session.addEventListener("change", () => this.#credit());
    this.#session.addEventListener("lost", () => this.#status.ask());
    this.#shelf.addEventListener("change", () => this.#listCollections());
    this.#status.addEventListener("ready", () => this.#meet());
    await new Chats(store, this.#session, () => this.#drawers.chats.leave()).open();
    this.#status.ask();
    this.#composer.focus();
  }

  /** Learns what the server has; again each time it comes back. */
  async #meet() {
    try {
      const [[model], schema] = await Promise.all([api.models(), api.schema()]);
      await this.#listCollections();
      this.#panel.showModel(model, schema);
      const { introduction, examples } = examplesFor(model.id);
      this.#greet(introduction, examples);
      this.#greet(introduction, await illustrated(examples, this.#panel.collection));
    } catch {
      setTimeout(() => this.#status.ready && this.#meet(), AGAIN_MS);
    }
  }

  async #listCollections() {
    this.#panel.showCollections(await api.collections());
  }

  #greet(introduction, examples) {
    this.#greeting = { introduction, examples };
    if (!this.#session.conversation.messages.length) this.#session.render();
    this.#credit();
  }

  #welcome() {
    const { introduction = "", examples = [] } = this.#greeting ?? {};
    return welcome(examples, { introduction, try: (example) => this.#try(example) });
  }

  #try({ text, sent, image }) {
    const shown = sent && image ? [{ type: "image", image }] : [];
    this.#session.send([...shown, { type: "text", text }]);
    this.#composer.focus();
  }

  /** The options of a request; null where it cannot be sent now, and the page says why. */
  #options() {
    if (!this.#status.ready) {
      this.#composer.say("One moment: the server is not ready yet.");
      this.#status.ask();
      return null;
    }
    try {
      return this.#panel.options();
    } catch (error) {
      this.#composer.say(error.message);
      return null;
    }
  }

  /** Whose pictures these are: of the conversation, and of the examples. */
  #credit() {
    const { messages } = this.#session.conversation;
    const examples = (this.#greeting?.examples ?? []).map(({ image }) => ({ image }));
    const shown = messages.length ? messages : [{ content: examples }];
    const credits = creditsOf({ messages: shown });
    const text = credits.length ? `Pictures: ${credits.join("; ")}` : "";
    byId("credit").replaceChildren(text ? el("span", {}, text) : "");
  }

  async #openShelf() {
    this.#drawers.settings.leave();
    await this.#shelf.open(this.#panel.collections, this.#panel.collection);
  }
}

await new App().start();
