// Keeps conversations, one state after the other; where two tabs went apart, both are kept.

import { newId } from "./conversation.js";
import { Conflict, Gone } from "./store.js";

export class Keeper {
  #store;
  #queue = Promise.resolve();

  constructor(store) {
    this.#store = store;
  }

  /** Resolves when all that has been asked for is done. */
  get done() {
    return this.#queue;
  }

  conversation(conversation) {
    return this.#next(() => this.#put(conversation));
  }

  /** A picture that is sent in the conversation. */
  keepPicture(picture, conversation, blob) {
    return this.#next(() => this.#store.putPicture(picture, conversation.id, blob));
  }

  /** The picture's blob, also one that is only now being kept; undefined where it is gone. */
  async picture(picture) {
    await this.#queue;
    return this.#store.picture(picture);
  }

  /** `apply` is given what the conversation has now: title, named, revision. */
  rename(id, title, apply) {
    return this.#next(async () => {
      const renamed = await this.#store.rename(id, title);
      if (renamed) apply(renamed);
    });
  }

  remove(id) {
    return this.#next(() => this.#store.remove(id));
  }

  /** One after another: a later state must not be overtaken by an earlier one. */
  #next(work) {
    this.#queue = this.#queue.then(work).catch(console.error);
    return this.#queue;
  }

  async #put(conversation) {
    try {
      await this.#store.put(conversation);
    } catch (error) {
      if (error instanceof Gone) return;
      if (!(error instanceof Conflict)) throw error;
      await this.#branch(conversation);
      await this.#store.put(conversation);
    }
  }

  /** Makes it a conversation of its own, with pictures of its own. */
  async #branch(conversation) {
    const title = `${conversation.title} (2)`;
    Object.assign(conversation, { id: newId(), title, named: true, revision: 0 });
    for (const { local } of conversation.messages.flatMap(({ content }) => content)) {
      const blob = local && (await this.#store.picture(local.picture));
      if (!blob) continue;
      local.picture = newId();
      await this.#store.putPicture(local.picture, conversation.id, blob);
    }
  }
}
