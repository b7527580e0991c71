/**
 * A source of updates that is asked and not awaited. Thousands of followers wait for most of their time, and a promise with all that hangs on it outlives the young generation in each of their waits: 2 kB an
 * update, which only a full collection takes back.
 */
export type Polled<Update extends object> = {
  /**
   * The next update; null where there is none yet: then `again` is called once, when it is worth asking again; undefined when it has ended. Throws what ended it. Who asks once more takes the place of
   * who asked before.
   */
  poll(again: () => void): Update | null | undefined;
  /** Ends it, which is worth asking again. */
  end(): void;
};

/** A polled source that can be iterated as well, by one reader. */
export type PolledIterable<Update extends object> = Polled<Update> & AsyncIterable<Update>;

export function iterablePolled<Update extends object>(polled: Polled<Update>): PolledIterable<Update> {
  const next = (): Promise<IteratorResult<Update, undefined>> =>
    new Promise((resolve, reject) => {
      const ask = (): void => {
        try {
          const update = polled.poll(ask);
          if (update === undefined) resolve({ done: true, value: undefined });
          else if (update !== null) resolve({ done: false, value: update });
        } catch (error) {
          reject(error);
        }
      };
      ask();
    });
  return {
    ...polled,
    [Symbol.asyncIterator]: () => ({
      next,
      async return() {
        polled.end();
        return { done: true, value: undefined };
      },
    }),
  };
}

/** Polls what comes in pages: those of a page are there at once, and the next page is asked for when all of them were taken. */
export function polledPages<Update extends object>(pages: AsyncGenerator<readonly Update[], void, undefined>): PolledIterable<Update> {
  let page: readonly Update[] = [];
  let taken = 0;
  let asked = false;
  let ended = false;
  let failure: { readonly error: unknown } | null = null;
  let goOn: (() => void) | null = null;

  function arrived(): void {
    asked = false;
    const again = goOn;
    goOn = null;
    again?.();
  }

  function ask(): void {
    asked = true;
    pages.next().then(
      (result) => {
        if (result.done === true) ended = true;
        else page = result.value;
        taken = 0;
        arrived();
      },
      (error: unknown) => {
        failure = { error };
        arrived();
      },
    );
  }

  return iterablePolled({
    poll(again) {
      if (ended) return undefined;
      const update = page[taken];
      if (update !== undefined) {
        taken++;
        return update;
      }
      if (failure !== null) throw failure.error;
      goOn = again;
      if (!asked) ask();
      return null;
    },
    end() {
      ended = true;
      // It was left, and what it says to that concerns nobody.
      pages.return().catch(() => undefined);
      arrived();
    },
  });
}
