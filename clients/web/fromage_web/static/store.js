// Conversations and the pictures sent in them, in the browser's IndexedDB; in memory where it has
// none or refuses. The page's other tabs share it, and are told of every change.

const NAME = "fromage";
const VERSION = 1;

/** Another tab has kept a state of the conversation that this one has not seen. */
export class Conflict extends Error {}

/** Another tab has deleted the conversation. */
export class Gone extends Error {}

function promised(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function finished(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
}

async function opened() {
  const request = indexedDB.open(NAME, VERSION);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("conversations", { keyPath: "id" });
    const pictures = request.result.createObjectStore("pictures", { keyPath: "id" });
    pictures.createIndex("conversation", "conversation");
  };
  return promised(request);
}

/**
 * Fires `elsewhere` when another tab has changed a conversation; its `detail` is {id}, and where
 * that tab has given it another title {id, title, named, revision}.
 */
export class Store extends EventTarget {
  #db;
  #tabs = null;
  #onRefused;
  // What could not be kept: tried again whenever something else could be.
  #pictures = new Map();
  #conversations = new Map();
  #retrying = false;
  #cleared = false;

  /** `onRefused` is called with a sentence when something cannot be kept, with "" when it can. */
  static async open(onRefused) {
    const store = new Store();
    store.#onRefused = onRefused;
    await store.#connect();
    if (store.#db) store.#listen();
    else onRefused("This browser keeps nothing: conversations are lost when the page is closed.");
    return store;
  }

  async #connect() {
    this.#db = await opened().catch(() => undefined);
    if (!this.#db) return;
    // The user has deleted what this site keeps.
    this.#db.onclose = () => {
      this.#cleared = true;
      this.#db = undefined;
      this.#connect();
    };
  }

  /** All conversations, the latest first. */
  async list() {
    const kept = this.#db ? await promised(this.#read("conversations").getAll()) : [];
    const all = new Map(kept.map((one) => [one.id, one]));
    for (const [id, one] of this.#conversations) all.set(id, one);
    return [...all.values()].sort((a, b) => b.updated - a.updated);
  }

  async get(id) {
    if (this.#conversations.has(id)) return this.#conversations.get(id);
    return this.#db ? promised(this.#read("conversations").get(id)) : undefined;
  }

  /**
   * Keeps the conversation as it is now, and of its pictures those that it still shows. Throws
   * Conflict or Gone, and changes nothing, where another tab was quicker.
   */
  async put(conversation) {
    const { id, revision = 0 } = conversation;
    const copy = structuredClone({ ...conversation, revision: revision + 1, kept: Date.now() });
    this.#conversations.delete(id);
    const isKept = await this.#write("conversations", copy, (there) => {
      if (!there && revision && !this.#cleared) throw new Gone(id);
      if (there && (there.revision ?? 0) !== revision) throw new Conflict(id);
    });
    if (isKept) conversation.revision = copy.revision;
    else this.#conversations.set(id, conversation);
    const used = new Set(
      copy.messages.flatMap((message) => message.content.map((part) => part.local?.picture)),
    );
    await this.#forgetPictures(id, (picture) => !used.has(picture));
    this.#tell({ id });
    if (isKept) await this.#retry();
  }

  /** Its title alone. Resolves to {title, named, revision}, or undefined where it is gone. */
  async rename(id, title) {
    const renamed = { title, named: true };
    if (this.#conversations.has(id)) {
      Object.assign(this.#conversations.get(id), renamed);
      return renamed; // kept with the rest of it
    }
    if (!this.#db) return undefined;
    const store = this.#change("conversations");
    const kept = await promised(store.get(id));
    if (!kept) return undefined;
    const done = finished(store.transaction);
    renamed.revision = (kept.revision ?? 0) + 1;
    store.put({ ...kept, ...renamed });
    await done;
    this.#tell({ id, ...renamed });
    return renamed;
  }

  async remove(id) {
    this.#conversations.delete(id);
    if (this.#db) await promised(this.#change("conversations").delete(id));
    await this.#forgetPictures(id, () => true);
    this.#tell({ id });
    await this.#retry();
  }

  async putPicture(id, conversation, blob) {
    const picture = { id, conversation, blob };
    this.#pictures.delete(id);
    if (!(await this.#write("pictures", picture))) this.#pictures.set(id, picture);
  }

  /** The picture's blob; undefined where it is gone. */
  async picture(id) {
    const kept = this.#pictures.get(id);
    if (kept || !this.#db) return kept?.blob;
    return (await promised(this.#read("pictures").get(id)))?.blob;
  }

  async #forgetPictures(conversation, which) {
    for (const [id, one] of this.#pictures) {
      if (one.conversation === conversation && which(id)) this.#pictures.delete(id);
    }
    if (!this.#db) return;
    const pictures = this.#change("pictures");
    const ids = await promised(pictures.index("conversation").getAllKeys(conversation));
    ids.filter(which).forEach((id) => pictures.delete(id));
    await finished(pictures.transaction);
  }

  /**
   * Resolves to whether it is in the database. `check` is given what is there, and may throw; nobody
   * else writes in between.
   */
  async #write(name, value, check = () => {}) {
    if (!this.#db) return false;
    try {
      const store = this.#change(name);
      check(await promised(store.get(value.id)));
      const done = finished(store.transaction);
      store.put(value);
      await done;
      if (!this.#pictures.size && !this.#conversations.size) this.#onRefused("");
      return true;
    } catch (error) {
      if (error instanceof Conflict || error instanceof Gone) throw error;
      this.#onRefused(refusal(error));
      return false;
    }
  }

  /** There is room again: what could not be kept may be now. */
  async #retry() {
    if (this.#retrying || !this.#db) return;
    this.#retrying = true;
    try {
      for (const { id, conversation, blob } of [...this.#pictures.values()]) {
        await this.putPicture(id, conversation, blob);
      }
      for (const conversation of [...this.#conversations.values()]) await this.put(conversation);
    } catch (error) {
      // It has gone apart from what is kept, and is no longer taken for that.
      if (!(error instanceof Conflict || error instanceof Gone)) throw error;
    } finally {
      this.#retrying = false;
    }
  }

  #tell(detail) {
    this.#tabs?.postMessage(detail);
  }

  #listen() {
    if (!globalThis.BroadcastChannel) return;
    this.#tabs = new BroadcastChannel(NAME);
    this.#tabs.onmessage = async ({ data }) => {
      const unkept = this.#conversations.get(data.id);
      if (unkept?.revision && this.#db && !(await promised(this.#read("conversations").get(data.id)))) {
        this.#conversations.delete(data.id); // deleted there
      }
      this.dispatchEvent(new CustomEvent("elsewhere", { detail: data }));
    };
  }

  #read(name) {
    return this.#db.transaction(name).objectStore(name);
  }

  #change(name) {
    return this.#db.transaction(name, "readwrite").objectStore(name);
  }
}

function refusal(error) {
  return error?.name === "QuotaExceededError"
    ? "The browser's storage is full: export or delete old conversations to keep this one."
    : "The browser could not keep this conversation: export it before you close the page.";
}
