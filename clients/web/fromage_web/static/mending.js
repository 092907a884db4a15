// What a request refers to and the server no longer has: sent again, or left out.

import { ApiFailure, upload } from "./api.js";
import { placeOf } from "./conversation.js";

const EXPIRES_EARLY_S = 30;
const MISSING = new Set(["image_not_found", "collection_not_found", "image_unavailable"]);

/** A turn is `{history, signal}`: the messages to be sent, the last one the user's. */
export class Mender {
  #keeper;
  #redraw;

  /** `redraw(message)`: it has changed. */
  constructor(keeper, redraw) {
    this.#keeper = keeper;
    this.#redraw = redraw;
  }

  /** Sends those pictures again whose time on the server is over. */
  async prepare(turn) {
    await this.#renew(turn, Date.now() / 1000 + EXPIRES_EARLY_S);
  }

  /** Whether what the server missed is put right, so that asking again helps. */
  async mended(turn, { code, param }) {
    if (code === "upload_not_found" && !turn.renewed) {
      // The server has been started anew, or needed the room.
      turn.renewed = true;
      await this.#renew(turn, Infinity);
      return true;
    }
    return MISSING.has(code) && this.#leaveOut(turn, param);
  }

  /** A picture that its collection has no longer is left out, unless it was just asked about. */
  #leaveOut({ history }, param) {
    const found = placeOf(history, param);
    if (!found || found.message === history.at(-1)) return false;
    found.part.gone = true;
    this.#redraw(found.message);
    return true;
  }

  /** Sends the user's own pictures again that expire before `soon` (seconds since 1970). */
  async #renew(turn, soon) {
    for (const message of turn.history) {
      for (const part of message.content) {
        if (part.local && !part.gone && !(part.local.expires_at > soon)) {
          await this.#renewOne(turn, message, part);
        }
      }
    }
  }

  async #renewOne({ history, signal }, message, part) {
    const { local } = part;
    const blob = await this.#keeper.picture(local.picture);
    if (blob) {
      const { id, expires_at } = await upload(blob, signal);
      Object.assign(local, { upload: id, expires_at });
    } else if (message !== history.at(-1)) {
      part.gone = true;
      this.#redraw(message);
    } else {
      throw new ApiFailure(`${local.name} is no longer kept by this browser.`, { code: "lost" });
    }
  }
}
