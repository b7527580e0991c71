import { setTimeout as sleep } from 'node:timers/promises';

import { createWaker } from '../lib/waker.ts';
import type { Peppers } from '../identity/pepper.ts';
import type { Database } from '../postgres/pool.ts';
import type { AddressPolicy } from './address-policy.ts';
import { anythingWaits, cancelOrphans, claimDeliveries, returnClaim, type ClaimedDelivery } from './claim-deliveries.ts';
import { payloadOf } from './payload.ts';
import { postMessage, type Posted } from './post-message.ts';
import { recordAttempt, SLOW_MS, type Verdict } from './record-attempt.ts';
import { resealWebhookSecrets } from './reseal-secrets.ts';
import type { ResolveHost } from './resolve-host.ts';
import { RETRY_DELAYS_MS, retryDelay } from './retry-schedule.ts';
import { signatureHeaders } from './signature.ts';
import { SecretSealedError, unsealWebhookSecret } from './webhook-secret.ts';
import type { WebhookCommands } from './webhook-commands.ts';

const SECOND_MS = 1000;
const DAY_MS = 24 * 60 * 60 * SECOND_MS;
const ATTEMPT_TIMEOUT_MS = 10 * SECOND_MS;
/** Without one success for so long, an endpoint is switched off. */
const FAILING_LIMIT_MS = 5 * DAY_MS;
const HEALTHY_ROOM = 128;
const TROUBLED_ROOM = 64;
const PER_ENDPOINT = 4;
/** So long a stopping server waits for attempts under way; then it breaks them off and hands them to the others. */
const FAREWELL_MS = 2 * SECOND_MS;
const ERROR_PAUSE_MS = SECOND_MS;

export type AttemptOutcome = 'delivered' | 'retry' | 'failed' | 'gone';

export type DelivererOptions = {
  readonly database: Database;
  readonly peppers: Peppers;
  readonly policy: AddressPolicy;
  readonly resolve: ResolveHost;
  readonly commands: Pick<WebhookCommands, 'disable'>;
  /** The global id of what a stream tells about. */
  readonly subjectIdOf: (stream: string) => string;
  /** How often to look without having been woken. */
  readonly pollMs: number;
  readonly onError: (error: Error) => void;
  readonly onAttempt?: (outcome: AttemptOutcome, durationMs: number) => void;
  readonly schedule?: readonly number[];
  readonly timeoutMs?: number;
};

export type Deliverer = {
  /** Something may be due. */
  wake(): void;
  underWay(): number;
  stop(): Promise<void>;
};

/**
 * Delivers what is due, each message at least once. Any number of servers run one and share the work by claims that lapse; who dies between sending and writing
 * down that it was sent has it sent again, with the same `webhook-id`.
 */
export function createDeliverer(options: DelivererOptions): Deliverer {
  const { database, peppers, policy, resolve, onError, pollMs, schedule = RETRY_DELAYS_MS, timeoutMs = ATTEMPT_TIMEOUT_MS } = options;
  const db = database.kysely;
  const closing = new AbortController();
  const breakingOff = new AbortController();
  const underWay = new Map<ClaimedDelivery, { readonly startedAt: number; readonly ended: Promise<void> }>();
  const waker = createWaker(closing.signal);

  async function keepDelivering(): Promise<void> {
    await reseal();
    while (!closing.signal.aborted) {
      let pauseMs = pollMs;
      try {
        if (await anythingWaits(db)) {
          await cancelOrphans(db);
          const claimed = await claim();
          for (const delivery of claimed) start(delivery);
          if (claimed.length > 0) continue;
        }
      } catch (error) {
        if (closing.signal.aborted) return;
        onError(error as Error);
        pauseMs = ERROR_PAUSE_MS;
      }
      await waker.next(pauseMs);
    }
  }

  async function reseal(): Promise<void> {
    try {
      await resealWebhookSecrets(db, peppers, onError);
    } catch (error) {
      onError(new Error('Webhook secrets could not be sealed anew; they stay under the older pepper.', { cause: error }));
    }
  }

  /** An attempt that has become slow leaves the room of the quick ones, and its endpoint gets no other until it has ended. */
  async function claim(): Promise<readonly ClaimedDelivery[]> {
    const now = performance.now();
    const byEndpoint = new Map<string, number>();
    const room = { healthy: HEALTHY_ROOM, troubled: TROUBLED_ROOM };
    for (const [{ endpointId, troubled }, { startedAt }] of underWay) {
      const slow = troubled || now - startedAt > SLOW_MS;
      room[slow ? 'troubled' : 'healthy']--;
      byEndpoint.set(endpointId, (byEndpoint.get(endpointId) ?? 0) + (slow ? PER_ENDPOINT : 1));
    }
    if (room.healthy <= 0 && room.troubled <= 0) return [];
    return claimDeliveries(db, { ...room, perEndpoint: PER_ENDPOINT, underWay: byEndpoint });
  }

  function start(delivery: ClaimedDelivery): void {
    const ended = attemptOnce(delivery)
      .catch(async (error: unknown) => {
        if (!breakingOff.signal.aborted)
          return onError(new Error('A webhook attempt could not be written down; it is made again.', { cause: error }));
        await returnClaim(db, delivery);
      })
      .catch(onError)
      .finally(() => {
        underWay.delete(delivery);
        waker.wake();
      });
    underWay.set(delivery, { startedAt: performance.now(), ended });
  }

  async function attemptOnce(delivery: ClaimedDelivery): Promise<void> {
    const posted = await send(delivery);
    const { verdict, outcome } = judge(delivery, posted);
    const { failingForMs } = await recordAttempt(db, delivery, posted, verdict);
    options.onAttempt?.(outcome, posted.durationMs);
    const { organizationId, endpointId } = delivery;
    if (outcome === 'gone') await options.commands.disable(organizationId, endpointId, 'GONE');
    else if (failingForMs !== null && failingForMs > FAILING_LIMIT_MS)
      await options.commands.disable(organizationId, endpointId, 'FAILING');
  }

  async function send(delivery: ClaimedDelivery): Promise<Posted> {
    let secrets;
    try {
      secrets = delivery.secrets.map((sealed) => unsealWebhookSecret(peppers, delivery.endpointId, sealed));
    } catch (error) {
      if (!(error instanceof SecretSealedError)) throw error;
      return { durationMs: 0, status: null, error: error.message, responseHead: null, retryAfterMs: null };
    }
    const body = payloadOf(delivery.event, options.subjectIdOf);
    const signature = signatureHeaders({ id: delivery.eventId, at: new Date(), body }, secrets);
    const headers = { 'content-type': 'application/json', 'user-agent': 'keyledger', ...signature };
    return postMessage({ url: delivery.url, headers, body }, { policy, resolve, timeoutMs, signal: breakingOff.signal });
  }

  function judge(
    delivery: ClaimedDelivery,
    { error, status, retryAfterMs }: Posted,
  ): { readonly verdict: Verdict; readonly outcome: AttemptOutcome } {
    if (error === null) return { verdict: { kind: 'delivered' }, outcome: 'delivered' };
    if (status === 410) return { verdict: { kind: 'failed' }, outcome: 'gone' };
    const delayMs = retryDelay(schedule, delivery.failures + 1, Math.random(), retryAfterMs);
    return delayMs === null
      ? { verdict: { kind: 'failed' }, outcome: 'failed' }
      : { verdict: { kind: 'retry', delayMs }, outcome: 'retry' };
  }

  async function allEnded(): Promise<void> {
    await Promise.all([...underWay.values()].map(({ ended }) => ended));
  }

  const loop = keepDelivering();
  return {
    wake: () => waker.wake(),
    underWay: () => underWay.size,
    async stop() {
      closing.abort();
      await loop;
      const farewell = new AbortController();
      const patience = sleep(FAREWELL_MS, undefined, { signal: farewell.signal }).catch(() => undefined);
      await Promise.race([allEnded(), patience]);
      farewell.abort();
      breakingOff.abort();
      await allEnded();
    },
  };
}
