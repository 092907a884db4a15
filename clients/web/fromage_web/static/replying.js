// Taking in one reply: what the server streams, and what it misses sent again or left out.

import { ApiFailure, chat } from "./api.js";
import { apply, toWire } from "./conversation.js";
import { Mender } from "./mending.js";

export class Replier {
  #mender;

  /** `redraw(message)`: it has changed. */
  constructor(keeper, redraw) {
    this.#mender = new Mender(keeper, redraw);
  }

  /**
   * Asks for an answer to `turn`: {history, options, signal}. Each event goes into `reply` and then
   * to `seen(event)`. What went wrong is said in the reply, and returned; null else.
   */
  async take(turn, reply, seen) {
    try {
      await this.#mender.prepare(turn);
      while (!(await this.#streamed(turn, reply, seen)));
      return null;
    } catch (error) {
      return failed(reply, error);
    }
  }

  /** False where the server missed something that is put right now. */
  async #streamed(turn, reply, seen) {
    const { history, options, signal } = turn;
    const body = { ...options, messages: toWire(history), truncation: "oldest_turns" };
    try {
      for await (const event of chat(body, signal)) {
        apply(reply, event);
        seen(event);
      }
      return true;
    } catch (error) {
      if (await this.#mender.mended(turn, error)) return false;
      throw error;
    }
  }
}

function failed(reply, error) {
  if (error.name === "AbortError") {
    reply.state = "stopped";
    return null;
  }
  reply.state = "failed";
  reply.error = error.message;
  if (!(error instanceof ApiFailure)) console.error(error);
  return error;
}
