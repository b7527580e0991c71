import { hash as digest, randomBytes } from 'node:crypto';

import { argon2id, hash as argon2Hash, verify as argon2Verify } from 'argon2';

/** OWASP's minimum for argon2id: 19 MiB, two passes, one lane. About 20 ms of one core. */
const MEMORY_KIB = 19_456;
const PARAMETERS = {
  type: argon2id,
  timeCost: 2,
  parallelism: 1,
  hashLength: 32,
} as const;

/** `busy`: nothing was checked, because too many wait already or the server is stopping; ask again later. */
export type Argon2Verdict = 'match' | 'mismatch' | 'busy';

export type Argon2Verifiers = {
  /**
   * A new durable verifier, as a PHC string. It waits for its turn and is never refused for lack of room. Rejects with the signal's reason where that fires
   * before its turn, and with an Error after `close`.
   */
  hash(secretText: string, signal?: AbortSignal): Promise<string>;
  /**
   * Whether the text is the one that the PHC string was made of. It takes no signal: the queue is short, so the wait is bounded. Rejects where the PHC
   * string can't be read, which means that the stored row is damaged.
   */
  verify(phc: string, secretText: string): Promise<Argon2Verdict>;
  /** Turns away what waits and what comes later, and resolves when what is running has ended. */
  close(): Promise<void>;
};

type Job = { readonly run: () => Promise<void>; readonly turnAway: () => void };

/**
 * The durable verifiers, at most `concurrency` computations at a time: argon2 fills libuv's pool and the memory bandwidth, and several at once
 * slow all other work of the server to a fifth.
 *
 * Two queues share the slots and take turns, so that neither starves the other. Verifications can be caused by anybody who knows a key's lookup
 * id, so at most `queueLimit` of them wait, and the next is answered `busy`: memory and waiting time stay bounded, and a gateway asks again.
 * Hashes are caused by an authenticated creation or regeneration, which the limit on key operations already counts: they are few, and a flood of bogus
 * keys must not stop an admin from rotating one, so their queue refuses nobody.
 *
 * Equal verifications share one computation: when a pepper was lost, a busy key asks hundreds of times before its fast verifier is back.
 *
 * `memoryKib` is what a hash takes, in KiB; OWASP's minimum unless a test, which makes keys by the thousand, says less.
 */
export function createArgon2Verifiers(options: {
  readonly concurrency: number;
  readonly queueLimit: number;
  readonly memoryKib?: number;
}): Argon2Verifiers {
  const { concurrency, queueLimit, memoryKib = MEMORY_KIB } = options;
  if (!Number.isInteger(concurrency) || concurrency < 1 || !Number.isInteger(queueLimit) || queueLimit < 0) {
    throw new RangeError('argon2: concurrency is 1 at least, queueLimit 0 at least');
  }
  const hashes = new Set<Job>();
  const verifications = new Set<Job>();
  const running = new Set<Promise<void>>();
  const shared = new Map<string, Promise<Argon2Verdict>>();
  let lastServed = verifications;
  let closed = false;

  function takeNext(): Job | undefined {
    const turn = lastServed === hashes ? verifications : hashes;
    const queue = turn.size > 0 ? turn : lastServed;
    // A Set iterates in the order of insertion: the first is the oldest.
    const [job] = queue;
    if (job !== undefined) {
      queue.delete(job);
      lastServed = queue;
    }
    return job;
  }

  function serve(): void {
    while (running.size < concurrency) {
      const job = takeNext();
      if (job === undefined) {
        return;
      }
      const work = job.run().finally(() => {
        running.delete(work);
        serve();
      });
      running.add(work);
    }
  }

  function enqueueVerification(phc: string, secretText: string): Promise<Argon2Verdict> {
    const { promise, resolve, reject } = Promise.withResolvers<Argon2Verdict>();
    verifications.add({
      run: () => check(phc, secretText).then(resolve, reject),
      turnAway: () => resolve('busy'),
    });
    serve();
    return promise;
  }

  return {
    hash: async (secretText, signal) => {
      signal?.throwIfAborted();
      const { promise, resolve, reject } = Promise.withResolvers<string>();
      const job: Job = {
        run: () => compute(secretText, memoryKib).then(resolve, reject),
        turnAway: () => reject(new Error('argon2: closed before the secret was hashed')),
      };
      // Only what waits can leave: a computation that has begun can't be stopped.
      const leave = (): void => {
        if (hashes.delete(job)) {
          reject(signal?.reason);
        }
      };
      signal?.addEventListener('abort', leave, { once: true });
      if (closed) {
        job.turnAway();
      } else {
        hashes.add(job);
        serve();
      }
      return promise.finally(() => signal?.removeEventListener('abort', leave));
    },

    verify: async (phc, secretText) => {
      const question = `${phc}\n${secretText}`;
      const asked = shared.get(question);
      if (asked !== undefined) {
        return asked;
      }
      if (closed || (running.size >= concurrency && verifications.size >= queueLimit)) {
        return 'busy';
      }
      const answer = enqueueVerification(phc, secretText).finally(() => shared.delete(question));
      shared.set(question, answer);
      return answer;
    },

    close: async () => {
      closed = true;
      for (const queue of [hashes, verifications]) {
        for (const job of queue) {
          queue.delete(job);
          job.turnAway();
        }
      }
      await Promise.all(running);
    },
  };
}

/** What the log records of a durable verifier: the SHA-256 of its PHC string, in lower-case hex, so that a swapped verifier shows in an audit. */
export function fingerprint(phc: string): string {
  return digest('sha256', phc, 'hex');
}

async function compute(secretText: string, memoryCost: number): Promise<string> {
  const salt = randomBytes(16);
  const raw = await argon2Hash(secretText, { ...PARAMETERS, memoryCost, salt, raw: true });
  const { timeCost, parallelism } = PARAMETERS;
  // Written here, because the package orders the parameters m, p, t: the reference implementation reads only m, t, p, and a durable verifier must not
  // depend on one package.
  return `$argon2id$v=19$m=${memoryCost},t=${timeCost},p=${parallelism}$${phcBase64(salt)}$${phcBase64(raw)}`;
}

/** The PHC string format's base64: the standard alphabet without padding. */
function phcBase64(bytes: Buffer): string {
  return bytes.toString('base64').replace(/=+$/, '');
}

async function check(phc: string, secretText: string): Promise<Argon2Verdict> {
  try {
    return (await argon2Verify(phc, secretText)) ? 'match' : 'mismatch';
  } catch (cause) {
    throw new Error('argon2: a stored verifier can not be read; regenerate the key it belongs to', {
      cause,
    });
  }
}
