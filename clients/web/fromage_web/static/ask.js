// Small questions in a dialog of the page's own.

import { button, byId, el } from "./dom.js";

/**
 * Asks for a yes, or with `label` for a line of text. Resolves to the text (true for a plain yes),
 * or to null where it was declined.
 */
export function ask({ title, text = "", yes, danger = false, label = null, value = "", pattern }) {
  const dialog = byId("ask");
  const input = label && el("input", { id: "ask-input", value, required: true, maxlength: 120, pattern });
  return new Promise((resolve) => {
    let answer = null;
    const submit = (event) => {
      event.preventDefault();
      answer = input ? input.value.trim() : true;
      if (answer) dialog.close();
    };
    const accept = el("button", { class: danger ? "plain danger" : "plain primary" }, yes);
    const form = el(
      "form",
      { on: { submit } },
      el("h2", { id: "ask-title" }, title),
      text ? el("p", {}, text) : null,
      input ? el("label", { for: "ask-input" }, label) : null,
      input,
      el("div", { class: "buttons" }, button("Cancel", () => dialog.close()), accept),
    );
    dialog.replaceChildren(form);
    dialog.addEventListener("close", () => resolve(answer), { once: true });
    dialog.showModal();
    (input || accept).focus();
    input?.select();
  });
}

/** A click beside a dialog closes it. */
export function closeOutside(dialog) {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}
