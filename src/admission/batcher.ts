import { AdmissionUnavailableError } from './admission.ts';

export type BatcherOptions<Item, Answer> = {
  /** Decides items together; the answers in the same order. */
  readonly run: (items: readonly Item[]) => Promise<readonly Answer[]>;
  /** Batches under way at once: while one is being decided the next one travels. A further one starts only when it holds as many as are under way: many small ones cost more. */
  readonly maxInFlight: number;
  readonly maxBatch: number;
  /** Items that wait; one more is refused. */
  readonly maxQueued: number;
  /** An item that waited longer is refused instead of being decided when nobody listens any more. */
  readonly maxWaitMs: number;
};

export type Batcher<Item, Answer> = {
  /** Throws AdmissionUnavailableError where the queue is full or the item waited too long, and what `run` throws. */
  add(item: Item): Promise<Answer>;
  queued(): number;
  inFlight(): number;
  /** Resolves when nothing is queued or under way; items added later are refused. */
  close(): Promise<void>;
};

type Waiting<Item, Answer> = {
  readonly item: Item;
  readonly since: number;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: unknown) => void;
};

/**
 * Group commit without a timer: a batch is whatever arrived while the batches before it were under way. A lone caller waits for nobody, a crowd shares
 * a round trip and a commit.
 */
export function createBatcher<Item, Answer>(options: BatcherOptions<Item, Answer>): Batcher<Item, Answer> {
  const { run, maxInFlight, maxBatch, maxQueued, maxWaitMs } = options;
  let queue: Waiting<Item, Answer>[] = [];
  let inFlight = 0;
  let itemsInFlight = 0;
  let scheduled = false;
  let closed: PromiseWithResolvers<void> | undefined;

  function mayStart(): boolean {
    return queue.length > 0 && inFlight < maxInFlight && queue.length >= Math.min(itemsInFlight, maxBatch);
  }

  function schedule(): void {
    if (scheduled || !mayStart()) return;
    scheduled = true;
    // After the I/O of this turn: requests whose bytes have arrived already go together.
    setImmediate(() => {
      scheduled = false;
      while (mayStart()) start(takeBatch());
    });
  }

  function takeBatch(): readonly Waiting<Item, Answer>[] {
    // What waits is shared out over the free places, so that both connections' worth of work overlaps.
    const size = Math.min(maxBatch, queue.length);
    const batch = queue.slice(0, size);
    queue = size === queue.length ? [] : queue.slice(size);
    const oldest = performance.now() - maxWaitMs;
    const alive = batch.filter((waiting) => waiting.since >= oldest);
    if (alive.length < batch.length) {
      const late = new AdmissionUnavailableError('The database is too slow for the load; try again.', { retryAfterSeconds: 1 });
      for (const waiting of batch) if (waiting.since < oldest) waiting.reject(late);
    }
    return alive;
  }

  function start(batch: readonly Waiting<Item, Answer>[]): void {
    if (batch.length === 0) return;
    inFlight++;
    itemsInFlight += batch.length;
    run(batch.map((waiting) => waiting.item)).then(
      (answers) => {
        inFlight--;
        itemsInFlight -= batch.length;
        schedule();
        batch.forEach((waiting, index) => {
          const answer = answers[index];
          if (answer === undefined) waiting.reject(new Error(`A batch of ${batch.length} was answered with ${answers.length} answers.`));
          else waiting.resolve(answer);
        });
        settle();
      },
      (error: unknown) => {
        inFlight--;
        itemsInFlight -= batch.length;
        schedule();
        for (const waiting of batch) waiting.reject(error);
        settle();
      },
    );
  }

  function settle(): void {
    if (closed !== undefined && inFlight === 0 && queue.length === 0) closed.resolve();
  }

  return {
    add(item) {
      if (closed !== undefined)
        return Promise.reject(new AdmissionUnavailableError('The server is stopping; try another one.', { retryAfterSeconds: 1 }));
      if (queue.length >= maxQueued)
        return Promise.reject(
          new AdmissionUnavailableError('Too many requests wait for the database; try again.', { retryAfterSeconds: 1 }),
        );
      return new Promise((resolve, reject) => {
        queue.push({ item, since: performance.now(), resolve, reject });
        schedule();
      });
    },
    queued: () => queue.length,
    inFlight: () => inFlight,
    close() {
      closed ??= Promise.withResolvers();
      settle();
      return closed.promise;
    },
  };
}
