// Which tab is taking in the reply of a conversation: one at a time, and the others see its end.

// Where the browser has no locks (plain http to another machine), a reply that no tab has kept for
// so long is no longer on its way.
const ALIVE_MS = 5_000;
const LOOK_MS = 1_000;
// Tabs that wait for the end hold the lock for a moment each.
const PATIENCE_MS = 500;
const nameOf = (id) => `fromage.answer.${id}`;

/** Does `work` as the tab that answers; where another one does, all the same. */
export async function answering(id, work) {
  if (!navigator.locks) return work();
  let begun = false;
  const begin = () => {
    begun = true;
    return work();
  };
  try {
    const signal = AbortSignal.timeout(PATIENCE_MS);
    return await navigator.locks.request(nameOf(id), { signal }, begin);
  } catch (error) {
    if (begun) throw error;
    return work();
  }
}

/** Resolves when no tab answers; `keptAt()`: when the reply was last kept. */
export async function answered(id, keptAt) {
  if (navigator.locks) {
    await navigator.locks.request(nameOf(id), { mode: "shared" }, () => {});
    return;
  }
  while (Date.now() < keptAt() + ALIVE_MS) {
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}
