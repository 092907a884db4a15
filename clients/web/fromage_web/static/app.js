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
  #model = null;
  #greeting = null;
  #asked;
  #learning;
  #session;

  async start() {
    const store = await Store.open((refusal) => {
      byId("refusal").textContent = refusal;
      byId("refusal").hidden = !refusal;
    });
    this.#session = new Session(store, this.#composer, new Scroller(), {
      options: () => this.#options(),
      failed: (error) => this.#failed(error),
      open: (part) => this.#viewer.open(part),
      welcome: () => this.#welcome(),
    });
    this.#session.addEventListener("change", () => this.#credit());
    this.#shelf.addEventListener("change", () => this.#listCollections().catch(console.error));
    this.#status.addEventListener("ready", () => this.#meet());
    await new Chats(store, this.#session, () => this.#drawers.chats.leave()).open();
    this.#asked = this.#status.ask();
    this.#composer.enable();
  }

  /** Learns what the server has, and greets; again each time it comes back. */
  async #meet() {
    this.#learning = this.#learn();
    this.#model = await this.#learning;
    if (this.#model) await this.#introduce();
  }

  async #introduce() {
    const { collection } = this.#panel;
    const { introduction, examples } = examplesFor(this.#model.id, collection);
    this.#greet(introduction, examples);
    this.#greet(introduction, await illustrated(examples, collection));
  }

  /** The model; null where the server went away meanwhile. */
  async #learn() {
    while (this.#status.ready) {
      try {
        const [[model], schema] = await Promise.all([api.models(), api.schema()]);
        await this.#listCollections();
        this.#panel.showModel(model, schema);
        return model;
      } catch {
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      }
    }
    return null;
  }

  async #listCollections() {
    const before = this.#panel.collection;
    this.#panel.showCollections(await api.collections());
    const isFirstOrLast = !before !== !this.#panel.collection;
    if (this.#greeting && isFirstOrLast) await this.#introduce();
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

  /**
   * The options of a request; null where it cannot be sent now, and the page says why. Who is
   * quicker than the page waits until it knows the server: what was chosen last time holds.
   */
  async #options() {
    await this.#asked;
    if (!this.#status.ready || !(await this.#learning)) {
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

  /** There is no reply: the server may be away, or did not take one of the settings. */
  #failed(error) {
    this.#status.ask();
    this.#panel.refuse(error);
    if (error.code === "collection_not_found") this.#listCollections().catch(console.error);
  }

  async #openShelf() {
    this.#drawers.settings.leave();
    // Others may have made some, or dropped some.
    await this.#listCollections().catch(() => {});
    await this.#shelf.open(this.#panel.collections, this.#panel.collection);
  }
}

await new App().start();
