/** Lets those that want the same thing do it one after the other, in the order in which they asked. Within this process alone. */
export type Turns = {
  /** Runs `act` when all that asked for `key` before are done, whatever became of them. */
  take<Result>(key: string, act: () => Promise<Result>): Promise<Result>;
};

export function createTurns(): Turns {
  const last = new Map<string, Promise<void>>();
  return {
    async take(key, act) {
      const before = last.get(key);
      const mine = Promise.withResolvers<void>();
      last.set(key, mine.promise);
      try {
        await before;
        return await act();
      } finally {
        if (last.get(key) === mine.promise) last.delete(key);
        mine.resolve();
      }
    },
  };
}
