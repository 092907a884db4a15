// What a newcomer can click on first. `shows` is a picture's caption; `sent`: it goes with the text.

import { retrieve } from "./api.js";

const INTRODUCTION =
  "Ask for something, and pictures come with the answer, out of the collection that this server " +
  "searches. Send pictures of your own, too.";
const DEMO =
  "This small demo model knows 125 things, up to three of them, on eight " +
  "colours. Ask it to show you some, or show it a picture.";
const NOTHING =
  "This server has no pictures to show yet. Make a collection of your own: in the settings, under " +
  "“Look at the pictures…”.";

const OF_DEMO = [
  { text: "show me an elephant", shows: "an elephant" },
  { text: "three cats on a blue background", shows: "three cats on a blue background" },
  { text: "a penguin and a rainbow", shows: "a penguin and a rainbow" },
  { text: "what is this?", shows: "two foxes on a yellow background", sent: true },
];
const OF_OTHERS = [
  { text: "Show me a picture of a lighthouse in a storm.", shows: "a lighthouse in a storm" },
  { text: "What would look good on a kitchen's wall?", shows: "a painting in a kitchen" },
  { text: "I want to go on holiday. Where to?", shows: "a quiet beach" },
  { text: "What is in this picture?", shows: "a dog on a sofa", sent: true },
];

/** `{introduction, examples}` for a model by its name, on a server that has a collection or none. */
export function examplesFor(model, collection) {
  if (!collection) return { introduction: NOTHING, examples: [] };
  const demo = model === "demo";
  return { introduction: demo ? DEMO : INTRODUCTION, examples: demo ? OF_DEMO : OF_OTHERS };
}

/** The same examples, each with a picture from the collection that suits it, where there is one. */
export function illustrated(examples, collection) {
  return Promise.all(
    examples.map(async (example) => {
      try {
        const [image] = await retrieve({ prompt: example.shows, k: 1, collection });
        return { ...example, image };
      } catch {
        return example;
      }
    }),
  );
}
