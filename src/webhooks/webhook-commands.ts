import { sql, type Kysely } from 'kysely';

import { requirePermission } from '../commands/authorization.ts';
import { parseInput } from '../commands/input.ts';
import { SYSTEM_ACTOR_ID, type Actor } from '../domain/actor.ts';
import { parseEvent, streamOf, type EventType, type WebhookEvent } from '../domain/event.ts';
import { isRefusal, refusal, type Refusal } from '../domain/refusals.ts';
import {
  ABSENT_WEBHOOK,
  decideWebhook,
  evolveWebhook,
  type InactiveReason,
  type WebhookCommand,
  type WebhookState,
} from '../domain/webhook-endpoint.ts';
import type { Peppers } from '../identity/pepper.ts';
import type { DecidedOn, Effect } from '../ledger/append.ts';
import { runCommand, type CommandContext, type Outcome } from '../ledger/run-command.ts';
import { loadStream } from '../ledger/stream.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import type { Secret } from '../lib/secret.ts';
import type { Tables } from '../postgres/tables.ts';
import { writeWebhookRow } from '../projections/webhook-row.ts';
import type { AddressPolicy } from './address-policy.ts';
import { secretEffects } from './secret-effects.ts';
import { webhookInputs } from './webhook-input.ts';
import { newWebhookSecret, sealWebhookSecret, webhookSecretFingerprint, type SealedSecret } from './webhook-secret.ts';

const HOUR_MS = 60 * 60 * 1000;
const DEFAULT_OVERLAP_MS = 24 * HOUR_MS;
/** Each event that they want is one more request of ours. */
const MAX_ENDPOINTS = 50;

export type WebhookResult = { readonly endpointId: string; readonly deliveryId: string | null };

/** The mutations of webhook endpoints. Each takes the input as it came, authorizes, parses, and answers an {@link Outcome}. */
export type WebhookCommands = {
  create(actor: Actor, input: unknown): Promise<Outcome<WebhookResult>>;
  update(actor: Actor, input: unknown): Promise<Outcome<WebhookResult>>;
  rotateSecret(actor: Actor, input: unknown): Promise<Outcome<WebhookResult>>;
  sendTest(actor: Actor, input: unknown): Promise<Outcome<WebhookResult>>;
  /** `id` is a delivery's. */
  redeliver(actor: Actor, input: unknown): Promise<Outcome<WebhookResult>>;
  delete(actor: Actor, input: unknown): Promise<Outcome<WebhookResult>>;
  /** By the deliverer. */
  disable(organizationId: string, endpointId: string, reason: Exclude<InactiveReason, 'REQUESTED'>): Promise<Outcome<WebhookResult>>;
};

export type WebhookCommandContext = CommandContext & { readonly peppers: Peppers; readonly policy: AddressPolicy };

const FOLD = { initial: ABSENT_WEBHOOK, parse: parseEvent.webhook, evolve: evolveWebhook };

type Minted = { readonly secret: Secret; readonly sealed: SealedSecret };
type Request = { readonly operation: string; readonly input: JsonValue; readonly idempotencyKey: Secret | null };
type Asked = {
  readonly command: WebhookCommand;
  readonly minted?: Minted;
  readonly effects?: readonly Effect[];
  readonly deliveryId?: string;
  readonly decidedOn?: DecidedOn;
};

export function createWebhookCommands(context: WebhookCommandContext): WebhookCommands {
  const { db, peppers, policy } = context;
  const inputs = webhookInputs(policy);

  function mint(endpointId: string): Minted {
    const secret = newWebhookSecret();
    return { secret, sealed: sealWebhookSecret(peppers, endpointId, secret) };
  }

  function run(
    actorId: string,
    target: { readonly organizationId: string; readonly endpointId: string },
    request: Request,
    ask: (state: WebhookState, now: Date) => Promise<Asked | Refusal> | Asked | Refusal,
  ): Promise<Outcome<WebhookResult>> {
    const { organizationId, endpointId } = target;
    const stream = streamOf.webhook(endpointId);
    return runCommand<WebhookResult>(context, {
      actorId,
      ...request,
      decide: async (now) => {
        const { state, version } = await loadStream<WebhookState, WebhookEvent>(db, organizationId, stream, FOLD);
        const asked = await ask(state, now);
        if (isRefusal(asked)) return asked;
        const events = decideWebhook(state, asked.command, now);
        if (isRefusal(events)) return events;
        const next = events.reduce(evolveWebhook, state);
        if (next.kind === 'absent') throw new Error('A decided webhook command left no endpoint.');
        return {
          streams: [{ organizationId, stream, version, events }],
          effects: [
            writeWebhookRow(next, { organizationId, actorId, version: version + events.length, events }),
            ...events.flatMap((event) => secretEffects(endpointId, event, asked.minted?.sealed)),
            ...(asked.effects ?? []),
          ],
          ...(asked.decidedOn === undefined ? {} : { decidedOn: asked.decidedOn }),
          result: { endpointId, deliveryId: asked.deliveryId ?? null },
          subjectId: endpointId,
          ...(asked.minted === undefined ? {} : { secret: asked.minted.secret }),
        };
      },
    });
  }

  return {
    async create(actor, raw) {
      requirePermission(actor, 'webhooks:write');
      const input = parseInput(inputs.create, raw);
      if (!input.ok) return input.refusal;
      const { organizationId, idempotencyKey, ...settings } = input.value;
      if (organizationId !== actor.organizationId) return refusal('NOT_FOUND', 'There is no such organization', 'organizationId');
      guardReach(actor, settings.eventTypes);
      const endpointId = await newEndpointId(db);
      const minted = mint(endpointId);
      const request = { operation: 'createWebhookEndpoint', input: { organizationId, ...settings }, idempotencyKey };
      return run(actor.id, { organizationId, endpointId }, request, async () => {
        if (await isFull(db, organizationId))
          return refusal(
            'INVALID_INPUT',
            `An organization has ${MAX_ENDPOINTS} webhook endpoints at most; delete one first`,
            'organizationId',
          );
        const secretFingerprint = webhookSecretFingerprint(minted.secret);
        const room = { kind: 'webhook endpoints', organizationId, newId: endpointId, most: MAX_ENDPOINTS } as const;
        return { command: { kind: 'create', endpointId, ...settings, secretFingerprint }, minted, decidedOn: { streams: [], room } };
      });
    },
    async update(actor, raw) {
      requirePermission(actor, 'webhooks:write');
      const input = parseInput(inputs.update, raw);
      if (!input.ok) return input.refusal;
      const { id, idempotencyKey, active, ...given } = input.value;
      const changes = Object.fromEntries(Object.entries(given).filter(([, value]) => value != null)) as Partial<{
        url: string;
        description: string;
        eventTypes: readonly EventType[];
      }>;
      const request = { operation: 'updateWebhookEndpoint', input: { id, active: active ?? null, ...changes }, idempotencyKey };
      return run(actor.id, { organizationId: actor.organizationId, endpointId: id }, request, (state) => {
        // Whoever turns the endpoint elsewhere reads what it gets.
        if (state.kind === 'endpoint') guardReach(actor, changes.eventTypes ?? state.eventTypes);
        return { command: { kind: 'update', changes, active: active ?? undefined } };
      });
    },
    async rotateSecret(actor, raw) {
      requirePermission(actor, 'webhooks:write');
      const input = parseInput(inputs.rotate, raw);
      if (!input.ok) return input.refusal;
      const { id, overlapUntil, idempotencyKey } = input.value;
      const request = {
        operation: 'rotateWebhookSecret',
        input: { id, overlapUntil: overlapUntil?.toISOString() ?? null },
        idempotencyKey,
      };
      const minted = mint(id);
      return run(actor.id, { organizationId: actor.organizationId, endpointId: id }, request, (_state, now) => ({
        command: {
          kind: 'rotate',
          secretFingerprint: webhookSecretFingerprint(minted.secret),
          overlapUntil: overlapUntil ?? new Date(now.getTime() + DEFAULT_OVERLAP_MS),
        },
        minted,
      }));
    },
    async sendTest(actor, raw) {
      requirePermission(actor, 'webhooks:write');
      const input = parseInput(inputs.one, raw);
      if (!input.ok) return input.refusal;
      const { id, idempotencyKey } = input.value;
      const request = { operation: 'sendTestWebhook', input: { id }, idempotencyKey };
      return run(actor.id, { organizationId: actor.organizationId, endpointId: id }, request, () => ({ command: { kind: 'test' } }));
    },
    async redeliver(actor, raw) {
      requirePermission(actor, 'webhooks:write');
      const input = parseInput(inputs.one, raw);
      if (!input.ok) return input.refusal;
      const { id, idempotencyKey } = input.value;
      const { organizationId } = actor;
      const delivery = await db
        .selectFrom('webhook_deliveries')
        .select(['endpoint_id', 'event_position'])
        .where('id', '=', id)
        .where('organization_id', '=', organizationId)
        .executeTakeFirst();
      if (delivery === undefined) return refusal('NOT_FOUND', 'There is no such delivery in your organization', 'id');
      const request = { operation: 'redeliverWebhook', input: { id }, idempotencyKey };
      // The schedule begins anew, and a claim that is under way is overtaken.
      const again = sql`
        UPDATE webhook_deliveries SET state = 'pending', failures = 0, claims = claims + 1, next_attempt_at = appended.recorded_at, finished_at = NULL
        FROM appended WHERE id = ${id}::uuid`;
      return run(actor.id, { organizationId, endpointId: delivery.endpoint_id }, request, () => ({
        command: { kind: 'redeliver', position: delivery.event_position },
        effects: [{ name: 'delivery_again', statement: again }],
        deliveryId: id,
      }));
    },
    async delete(actor, raw) {
      requirePermission(actor, 'webhooks:write');
      const input = parseInput(inputs.one, raw);
      if (!input.ok) return input.refusal;
      const { id, idempotencyKey } = input.value;
      const request = { operation: 'deleteWebhookEndpoint', input: { id }, idempotencyKey };
      return run(actor.id, { organizationId: actor.organizationId, endpointId: id }, request, () => ({ command: { kind: 'delete' } }));
    },
    disable: (organizationId, endpointId, reason) =>
      run(SYSTEM_ACTOR_ID, { organizationId, endpointId }, { operation: 'disable', input: null, idempotencyKey: null }, () => ({
        command: { kind: 'disable', reason },
      })),
  };
}

/** Nobody hands out more than they hold: what is delivered is alerts and, beside them, the log. */
function guardReach(actor: Actor, eventTypes: readonly EventType[]): void {
  for (const type of eventTypes) requirePermission(actor, type.startsWith('Alert') ? 'alerts:read' : 'log:read');
}

async function isFull(db: Kysely<Tables>, organizationId: string): Promise<boolean> {
  const { rows } = await sql<{ n: bigint }>`
    SELECT count(*) AS n FROM webhook_endpoints WHERE organization_id = ${organizationId}::uuid AND state <> 'deleted'`.execute(db);
  return Number(rows[0]?.n ?? 0n) >= MAX_ENDPOINTS;
}

async function newEndpointId(db: Kysely<Tables>): Promise<string> {
  const { rows } = await sql<{ id: string }>`SELECT uuidv7() AS id`.execute(db);
  const id = rows[0]?.id;
  if (id === undefined) throw new Error('The database gave no id for a new webhook endpoint.');
  return id;
}
