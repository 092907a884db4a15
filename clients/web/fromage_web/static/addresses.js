// Addresses of pictures that the browser keeps: one for each, however often it is drawn.

export class Addresses {
  #keeper;
  #known = new Map();

  constructor(keeper) {
    this.#keeper = keeper;
  }

  /** undefined where the picture is no longer kept. */
  async of(picture) {
    const blob = await this.#keeper.picture(picture);
    if (blob && !this.#known.has(picture)) this.#known.set(picture, URL.createObjectURL(blob));
    return this.#known.get(picture);
  }

  /** None of them is shown any longer. */
  forget() {
    for (const address of this.#known.values()) URL.revokeObjectURL(address);
    this.#known.clear();
  }
}
