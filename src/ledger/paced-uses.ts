import { createQueue } from '../lib/queue.ts';
import type { KeyUse } from './use-followers.ts';

/**
 * Each key's uses at most once in a while, with the count since the last time: the first use at once, what follows within that while together at its end. However slow who takes them is, what waits is
 * bounded by the number of keys.
 */
export type PacedUses = {
  add(use: KeyUse): void;
  /** The next use whose time has come, `nowMs` by a clock that never goes back; null where there is none. */
  take(nowMs: number): KeyUse | null;
  /** In how many milliseconds there may be one, if no further key is used; null where there is none to wait for. */
  soonestMs(nowMs: number): number | null;
  /** Keys of which something is kept. */
  kept(): number;
};

/** So many keys are kept while they are not used, since those that are followed by name are used again. Of an organization's hundred thousand each follower would keep all. */
const KEPT_AT_REST = 1000;

/** Of a key that was used of late. */
type Slot = {
  readonly key: number;
  /** What was used since it was taken. */
  use: KeyUse | null;
  takenAtMs: number;
  /** In one of the queues. */
  queued: boolean;
};

export function createPacedUses(everyMs: number): PacedUses {
  const slots = new Map<number, Slot>();
  const ready = createQueue<Slot>();
  /** Taken less than a while ago, the oldest first. */
  const resting = createQueue<Slot>();

  function endRests(nowMs: number): void {
    for (let slot = resting.at(0); slot !== undefined && slot.takenAtMs + everyMs <= nowMs; slot = resting.at(0)) {
      resting.shift();
      if (slot.use !== null) ready.push(slot);
      else if (slots.size > KEPT_AT_REST) slots.delete(slot.key);
      else slot.queued = false;
    }
  }

  return {
    add(use) {
      let slot = slots.get(use.key);
      if (slot === undefined) slots.set(use.key, (slot = { key: use.key, use: null, takenAtMs: 0, queued: false }));
      slot.use = slot.use === null ? use : { ...use, requests: slot.use.requests + use.requests };
      if (slot.queued) return;
      slot.queued = true;
      ready.push(slot);
    },
    take(nowMs) {
      endRests(nowMs);
      const slot = ready.shift();
      if (slot === undefined) return null;
      const { use } = slot;
      slot.use = null;
      slot.takenAtMs = nowMs;
      resting.push(slot);
      return use;
    },
    soonestMs(nowMs) {
      for (let index = 0, slot = resting.at(0); slot !== undefined; slot = resting.at(++index)) {
        if (slot.use !== null) return slot.takenAtMs + everyMs - nowMs;
      }
      return null;
    },
    kept: () => slots.size,
  };
}
