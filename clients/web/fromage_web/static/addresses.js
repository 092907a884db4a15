// Addresses of pictures that the browser keeps: one for each, however often it is drawn.

export class Addresses {
  #store;
  #known = new Map();

  constructor(store) {
    this.#store = store;
  }

  /** undefined where the picture is no longer kept. */
  async of(picture) {
    const blob = await this.#store.picture(picture);
    if (blob && !this.#known.has(picture)) this.#known.set(picture, URL.createObjectURL(blob));
    return this.#known.get(picture);
  }

  /** None of them is shown any longer. */
  forget() {
    for (const address of this.#known.values()) URL.revokeObjectURL(address);
    this.#known.clear();
  }
}
