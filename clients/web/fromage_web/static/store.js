// Conversations and the pictures sent in them, in the browser's IndexedDB; in memory where it has
// none or refuses.

const NAME = "fromage";
const VERSION = 1;

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

export class Store {
  #db;
  #onRefused;
  #pictures = new Map();
  #conversations = new Map();

  /** `onRefused` is called with a sentence when something cannot be kept, with "" when it can. */
  static async open(onRefused) {
    const store = new Store();
    store.#onRefused = onRefused;
    try {
      store.#db = await opened();
    } catch {
      onRefused("This browser keeps nothing: conversations are lost when the page is closed.");
    }
    return store;
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

  /** Keeps the conversation as it is now, and of its pictures those that it still shows. */
  async put(conversation) {
    const copy = structuredClone(conversation);
    await this.#write("conversations", copy, this.#conversations);
    const used = new Set(
      copy.messages.flatMap((message) => message.content.map((part) => part.local?.picture)),
    );
    await this.#forgetPictures(copy.id, (id) => !used.has(id));
  }

  async remove(id) {
    this.#conversations.delete(id);
    if (this.#db) await promised(this.#change("conversations").delete(id));
    await this.#forgetPictures(id, () => true);
  }

  async putPicture(id, conversation, blob) {
    await this.#write("pictures", { id, conversation, blob }, this.#pictures);
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

  async #write(name, value, memory) {
    if (this.#db) {
      try {
        const store = this.#change(name);
        const done = finished(store.transaction);
        store.put(value);
        await done;
        memory.delete(value.id);
        if (!memory.size) this.#onRefused("");
        return;
      } catch (error) {
        this.#onRefused(refusal(error));
      }
    }
    memory.set(value.id, value);
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
