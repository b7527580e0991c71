import type pg from 'pg';

import { foreignHashOf } from '../domain/foreign-key.ts';
import { parseKey } from '../domain/key-format.ts';
import { codeNumber } from '../domain/usage.ts';
import type { Argon2Verifiers } from '../identity/argon2-verifier.ts';
import { fastVerifier, type Peppers } from '../identity/pepper.ts';
import type { Database } from '../postgres/pool.ts';
import { AdmissionUnavailableError, type Admission, type CallerRefused, type VerifyAnswer } from './admission.ts';
import { ADDRESS_BLOCKING, type AddressBlocking } from './admit-batch.ts';
import { createTurns } from '../lib/turns.ts';
import { repeatAnswer, toAnswer } from './answer.ts';
import type { Asked } from './asked.ts';
import { createBatcher } from './batcher.ts';
import { createDecideBatch, type Outcome, type WaitingRequest } from './decide-batch.ts';
import { CALLER_FORBIDDEN, CALLER_UNAUTHENTICATED, OTHER_PEPPER, REQUEST_ID_TAKEN, type Facts } from './facts.ts';
import { createFactsCache, KEPT_BY_A_SERVER } from './facts-cache.ts';
import { loadFacts } from './load-facts.ts';
import { preloadFacts } from './preload-facts.ts';
import { openPipelinedConnection } from './pipelined-connection.ts';
import { createUsageRecorder } from './usage-recorder.ts';
import { createVerifierAdoption, type ReplaceVerifier } from './verifier-adoption.ts';
import { createVerifierRenewal } from './verifier-renewal.ts';
import type { Verdict } from './verdicts.ts';
import { createWakeGate } from './wake-gate.ts';

const WAKE_MS = 20;
const MAX_WAIT_MS = 5000;
/** Requests whose facts are read by one statement. */
const MAX_READ = 500;
/** Batches that a request may be part of until one is decided: it is taken up again where its facts were out of date. */
const MAX_TRIES = 10;
const MAX_RENEWALS = 10;
const INVALID_KEY = codeNumber('INVALID_KEY');

export type AdmissionOptions = {
  readonly database: Database;
  /** Of the verifications' own connection. */
  readonly connection: pg.ClientConfig;
  readonly peppers: Peppers;
  readonly argon2: Argon2Verifiers;
  /** Records the durable verifier that an imported secret was given. */
  readonly replaceVerifier: ReplaceVerifier;
  readonly onError: (error: Error) => void;
  readonly blocking?: AddressBlocking;
  readonly maxBatch?: number;
  readonly maxQueued?: number;
};

export type AdmissionGauges = { queued(): number; inFlight(): number; connected(): boolean };

/** The verifications of one server. */
export type ServingAdmission = Admission & {
  readonly gauges: AdmissionGauges;
  /** Reads ahead what decides about the keys that were used last. Never rejects. */
  preload(): Promise<void>;
};

/** The hot path. Each verification is decided, charged and recorded in the database, together with all others that arrived meanwhile. */
export function createAdmission(options: AdmissionOptions): ServingAdmission {
  const { database, peppers, onError, blocking = ADDRESS_BLOCKING, maxQueued = 10_000 } = options;
  const connection = openPipelinedConnection({
    // Planned once and never again: planning `admit` costs more than running it. Its estimates are of arrays, so JIT would be wrong each time. Nested loops
    // alone: by them rows are locked in the order of keys; a hash join takes them as they come, and then servers wait for each other in a circle.
    config: {
      ...options.connection,
      options: `${options.connection.options ?? ''} -c plan_cache_mode=force_generic_plan -c jit=off -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off`,
    },
    onError,
    onConnect: () => facts.forgetAll(),
  });
  const gate = createWakeGate({
    intervalMs: WAKE_MS,
    wake: () => {
      // Where that fails, the followers' own polling finds what there is.
      connection.query({ text: "SELECT pg_notify('keyledger_log', '')" }).catch(() => undefined);
    },
  });
  const usage = createUsageRecorder({ db: database.kysely });
  const facts = createFactsCache({
    load: (wanted, sharing) => loadFacts((query) => connection.query(query), wanted, sharing),
    ...KEPT_BY_A_SERVER,
    maxRead: MAX_READ,
    maxQueued,
    maxWaitMs: MAX_WAIT_MS,
  });
  const renewal = createVerifierRenewal({ db: database.kysely, peppers, argon2: options.argon2 });
  const adoption = createVerifierAdoption({ db: database.kysely, argon2: options.argon2, replace: options.replaceVerifier, onError });
  const batcher = createBatcher<WaitingRequest, Outcome>({
    run: createDecideBatch({ connection, facts, peppers, blocking, gate, onError }),
    maxInFlight: 2,
    maxBatch: options.maxBatch ?? 500,
    maxQueued,
    maxWaitMs: MAX_WAIT_MS,
  });

  /** A second request with an id that its caller chose waits for the first one's answer to be there to be repeated. */
  const turns = createTurns();

  function decide<Told>(asked: Asked, tell: (verdict: Verdict) => Told | Promise<Told>): Promise<Told> {
    const { caller, request } = asked;
    if (request.requestId === null) return decideOne(asked, tell);
    const asker = caller.kind === 'token' ? caller.tokenHash : caller.organizationId;
    return turns.take(`${asker} ${request.requestId}`, () => decideOne(asked, itself)).then(tell);
  }

  /** From memory at first; where that turns out to be out of date, by what is read for this request alone, which no later change can overtake. */
  function decideOne<Told>(asked: Asked, tell: (verdict: Verdict) => Told | Promise<Told>): Promise<Told> {
    const inMemory = facts.find(asked);
    if (inMemory === undefined) return decideByReading(asked, 1).then(tell);
    return batcher
      .add({ asked, facts: inMemory, known: facts.known(), again: false })
      .then((outcome) => (outcome === 'stale' ? decideByReading(asked, 2).then(tell) : tell(verdictOf(outcome))));
  }

  async function decideByReading(asked: Asked, firstTry: number): Promise<Verdict> {
    for (let tries = firstTry; tries <= MAX_TRIES; tries++) {
      const outcome = await batcher.add({ asked, facts: await readFacts(asked), known: null, again: tries > 1 });
      if (outcome !== 'stale') return verdictOf(outcome);
    }
    throw new AdmissionUnavailableError('What the key may do changes faster than it can be read; try again.', { retryAfterSeconds: 1 });
  }

  async function readFacts(asked: Asked): Promise<Facts> {
    try {
      return await facts.read(asked);
    } catch (error) {
      if (error instanceof AdmissionUnavailableError) throw error;
      throw new AdmissionUnavailableError('The database can not answer now; try again.', { retryAfterSeconds: 1, cause: error });
    }
  }

  const closing = new AbortController();
  let preloading: Promise<void> | undefined;

  /** What can't be read now is read when it is asked for. */
  async function preload(): Promise<void> {
    try {
      // A verification does not wait for long, but this has time.
      await connection.whenConnected(closing.signal);
      await preloadFacts(database.kysely, facts, closing.signal);
    } catch (error) {
      if (!closing.signal.aborted) onError(new Error('The facts of the keys used last could not be read ahead.', { cause: error }));
    }
  }

  /** While servers are given another pepper one after the other, one of the others may have made a verifier with the old one once more. */
  async function answerWithOwnPepper(asked: Asked, first: Verdict): Promise<VerifyAnswer | CallerRefused> {
    let verdict = first;
    for (let renewals = 1; verdict.decided.code === OTHER_PEPPER && verdict.lookupId !== null; renewals++) {
      if (renewals > MAX_RENEWALS)
        throw new AdmissionUnavailableError('Servers with different peppers are at work on this key; try again.', { retryAfterSeconds: 1 });
      const renewed = await renewal.renew(asked, verdict.lookupId);
      facts.forgetSecret(verdict.lookupId);
      if (renewed === 'wrong-secret') return toAnswer({ ...verdict.decided, code: INVALID_KEY }, null, asked.request.requestId);
      verdict = await decide(asked, itself);
    }
    return answerTo(asked, verdict);
  }

  function answerTo({ request, foreignHash }: Asked, { decided, key, special }: Verdict): VerifyAnswer | CallerRefused {
    if (foreignHash !== null && key !== null) adoption.consider(request.key, foreignHash, key);
    switch (decided.code) {
      case CALLER_UNAUTHENTICATED:
        return { kind: 'unauthenticated' };
      case CALLER_FORBIDDEN:
        return { kind: 'forbidden' };
      case REQUEST_ID_TAKEN:
        return { kind: 'request-id-taken' };
      default:
        return special !== null && 'answer' in special
          ? repeatAnswer(special.answer, BigInt(special.position), request.requestId)
          : toAnswer(decided, key, request.requestId);
    }
  }

  return {
    // No async function from here down to the batch: each is two promises more, and two turns of the microtasks' queue.
    verify(caller, request) {
      const parsed = parseKey(request.key);
      const asked: Asked = {
        caller,
        request,
        lookupId: parsed?.lookupId ?? null,
        foreignHash: parsed === null ? foreignHashOf(request.key) : null,
        mac: fastVerifier(peppers.current, request.key),
      };
      return decide(asked, (verdict) =>
        verdict.decided.code === OTHER_PEPPER ? answerWithOwnPepper(asked, verdict) : answerTo(asked, verdict),
      );
    },
    recordUsage: usage.record,
    preload: () => (preloading ??= preload()),
    async close() {
      closing.abort();
      await preloading;
      await adoption.close();
      await facts.close();
      await batcher.close();
      gate.close();
      await connection.close();
    },
    gauges: { queued: () => batcher.queued(), inFlight: () => batcher.inFlight(), connected: () => connection.connected() },
  };
}

function itself(verdict: Verdict): Verdict {
  return verdict;
}

function verdictOf(outcome: Verdict | AdmissionUnavailableError): Verdict {
  if (outcome instanceof AdmissionUnavailableError) throw outcome;
  return outcome;
}
