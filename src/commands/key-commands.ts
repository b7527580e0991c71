import type { Kysely } from 'kysely';

import { SYSTEM_ACTOR_ID, type Actor } from '../domain/actor.ts';
import { ABSENT_KEY, decideKey, evolveKey, type KeyCommand, type KeyState } from '../domain/api-key.ts';
import { parseEvent, streamOf, type KeyEvent, type KeySettings } from '../domain/event.ts';
import { isRefusal, refusal, type Refusal } from '../domain/refusals.ts';
import type { Argon2Verifiers } from '../identity/argon2-verifier.ts';
import type { Peppers } from '../identity/pepper.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import type { Secret } from '../lib/secret.ts';
import { isForeignKeyViolation, isUniqueViolation } from '../ledger/append.ts';
import { runCommand, type CommandContext, type Decision, type Outcome } from '../ledger/run-command.ts';
import { loadStream } from '../ledger/stream.ts';
import type { Tables } from '../postgres/tables.ts';
import { requireFunds } from '../projections/balance-row.ts';
import { writeKeyRow } from '../projections/key-row.ts';
import { newWindowRows } from '../projections/window-rows.ts';
import { requireKeyWrite, requirePermission } from './authorization.ts';
import { parseInput } from './input.ts';
import { newKeyIdentity, type KeyIdentity } from './key-identity.ts';
import { operationsUnder, readKeyPolicy, readUse, type KeyPolicy } from './key-policy.ts';
import { mintSecret, type MintedSecret } from './mint-secret.ts';
import { bindPersonalKeys, isUnbindable, refuseOwnKey } from './personal-keys.ts';
import { createKeySchema, deleteKeySchema, keyIdSchema, regenerateKeySchema, updateKeySchema } from './key-input.ts';
import { verifierEffects } from './verifier-effects.ts';

export type KeyResult = { readonly keyId: string };

/** The key mutations. Each takes the input as it came, authorizes, parses, and answers an {@link Outcome}; throws ForbiddenError and what runCommand throws. */
export type KeyCommands = {
  create(actor: Actor, input: unknown): Promise<Outcome<KeyResult>>;
  update(actor: Actor, input: unknown): Promise<Outcome<KeyResult>>;
  activate(actor: Actor, input: unknown): Promise<Outcome<KeyResult>>;
  deactivate(actor: Actor, input: unknown): Promise<Outcome<KeyResult>>;
  regenerate(actor: Actor, input: unknown): Promise<Outcome<KeyResult>>;
  delete(actor: Actor, input: unknown): Promise<Outcome<KeyResult>>;
  /** Appends `Expired` to a key whose moment has come; does nothing where that was done. */
  expire(organizationId: string, keyId: string): Promise<Outcome<KeyResult>>;
};

export type KeyCommandContext = CommandContext & {
  readonly peppers: Peppers;
  readonly argon2: Argon2Verifiers;
  /** Where the organization has not said otherwise; null for no limit. */
  readonly keyOperationsPerHour: number | null;
};

/** A command made for the state of its key, with what else it was made on. */
type Prepared = { readonly command: KeyCommand; readonly minted?: MintedSecret; readonly under?: Under };
type Under = Pick<Decision<KeyResult>, 'decidedOn' | 'keyOperationsPerHour'>;

const FOLD = { initial: ABSENT_KEY, parse: parseEvent.key, evolve: evolveKey };

/** Loads a key's state as its log tells it, with the version to append on. */
export function loadKey(db: Kysely<Tables>, organizationId: string, keyId: string) {
  return loadStream<KeyState, KeyEvent>(db, organizationId, streamOf.key(keyId), FOLD);
}

export function createKeyCommands(context: KeyCommandContext): KeyCommands {
  const { db } = context;

  /** Runs a command on a key that exists: load, authorize by its owner, decide, write its row and verifiers. */
  async function change(
    actor: Actor | null,
    target: { readonly organizationId: string; readonly keyId: string },
    request: { readonly operation: string; readonly input: JsonValue; readonly idempotencyKey: Secret | null },
    toCommand: (state: KeyState) => Promise<Prepared | Refusal> | Prepared,
  ): Promise<Outcome<KeyResult>> {
    const actorId = actor?.id ?? SYSTEM_ACTOR_ID;
    if (actor !== null) await authorizeChange(actor, target.keyId);
    return refuseByTables(
      runCommand<KeyResult>(context, {
        actorId,
        ...request,
        decide: async (now) => {
          const { state, version } = await loadKey(db, target.organizationId, target.keyId);
          const asked = await toCommand(state);
          if (isRefusal(asked)) return asked;
          const events = decideKey(state, asked.command, now);
          if (isRefusal(events)) return events;
          const { organizationId } = target;
          return { ...decided({ actorId, organizationId, state, version, events, minted: asked.minted }), ...asked.under };
        },
      }),
    );
  }

  /** Who may not write team keys may write only their own personal one; of any other they learn nothing. */
  async function authorizeChange(actor: Actor, keyId: string): Promise<void> {
    if (actor.permissions.has('keys:write')) return;
    const { state } = await loadKey(db, actor.organizationId, keyId);
    requireKeyWrite(actor, state.kind === 'absent' ? null : state.ownerId);
  }

  async function createKey(actor: Actor, raw: unknown): Promise<Outcome<KeyResult>> {
    if (!actor.permissions.has('keys:write')) requirePermission(actor, 'keys:write:personal');
    const input = parseInput(createKeySchema, raw);
    if (!input.ok) return input.refusal;
    const { organizationId, type, personal, idempotencyKey, ...settings } = input.value;
    if (organizationId !== actor.organizationId) return refusal('NOT_FOUND', 'There is no such organization', 'organizationId');
    const ownerId = personal && actor.kind === 'member' ? actor.memberId : null;
    if (personal && ownerId === null) return refusal('INVALID_INPUT', "A service has no personal keys; leave 'personal' out", 'personal');
    requireKeyWrite(actor, ownerId);
    let minted: MintedSecret | undefined;
    let identity: KeyIdentity | undefined;
    return refuseByTables(
      runCommand<KeyResult>(context, {
        actorId: actor.id,
        operation: 'createApiKey',
        input: { organizationId, type, personal, ...settings } satisfies JsonValue,
        idempotencyKey,
        decide: async (now) => {
          const policy = await readKeyPolicy(db, organizationId);
          minted ??= await mintSecret(context, type);
          identity ??= await newKeyIdentity(db);
          const { publicPermissions } = policy;
          const command: KeyCommand = { kind: 'create', ...identity, type, ownerId, settings, secret: minted.facts, publicPermissions };
          const events = decideKey(ABSENT_KEY, command, now);
          if (isRefusal(events)) return events;
          const decision = {
            ...decided({ actorId: actor.id, organizationId, state: ABSENT_KEY, version: 0, events, minted }),
            ...under(policy),
          };
          if (ownerId === null) return decision;
          const bound = await bindPersonalKeys(db, organizationId, [{ ownerId, keyId: identity.keyId }]);
          return isUnbindable(bound) ? refuseOwnKey(bound) : { ...decision, streams: [...decision.streams, ...bound] };
        },
      }),
    );
  }

  return {
    create: createKey,
    async update(actor, raw) {
      const input = parseInput(updateKeySchema, raw);
      if (!input.ok) return input.refusal;
      const { id, idempotencyKey, ...given } = input.value;
      const changes = clearable(given);
      const request = { operation: 'updateApiKey', input: { id, ...changes }, idempotencyKey };
      return change(actor, { organizationId: actor.organizationId, keyId: id }, request, async () => {
        const policy = await readKeyPolicy(db, actor.organizationId);
        return { command: { kind: 'update', changes, publicPermissions: policy.publicPermissions }, under: under(policy) };
      });
    },
    activate: (actor, raw) => simple(actor, raw, 'activateApiKey', { kind: 'activate' }),
    deactivate: (actor, raw) => simple(actor, raw, 'deactivateApiKey', { kind: 'deactivate' }),
    async regenerate(actor, raw) {
      const input = parseInput(regenerateKeySchema, raw);
      if (!input.ok) return input.refusal;
      const { id, overlapUntil, idempotencyKey } = input.value;
      let minted: MintedSecret | undefined;
      const request = { operation: 'regenerateApiKey', input: { id, overlapUntil }, idempotencyKey };
      return change(actor, { organizationId: actor.organizationId, keyId: id }, request, async (state) => {
        if (state.kind === 'absent') return refusal('NOT_FOUND', 'There is no such key in your organization', 'id');
        minted ??= await mintSecret(context, state.type);
        return {
          command: { kind: 'regenerate', secret: minted.facts, overlapUntil: overlapUntil === null ? null : new Date(overlapUntil) },
          minted,
          under: under(await readKeyPolicy(db, actor.organizationId)),
        };
      });
    },
    async delete(actor, raw) {
      const input = parseInput(deleteKeySchema, raw);
      if (!input.ok) return input.refusal;
      const { id, confirmName, idempotencyKey } = input.value;
      const request = { operation: 'deleteApiKey', input: { id, confirmName }, idempotencyKey };
      return change(actor, { organizationId: actor.organizationId, keyId: id }, request, async (state) => {
        const policy = await readKeyPolicy(db, actor.organizationId);
        if (policy.deletion === 'ANY_KEY' || state.kind === 'absent')
          return { command: { kind: 'delete', confirmName }, under: under(policy) };
        const { used, upTo } = await readUse(db, state.number);
        return {
          command: { kind: 'delete', confirmName, refuseUsed: used },
          under: { decidedOn: { streams: policy.decidedOn, unused: { keyNumber: state.number, upTo } } },
        };
      });
    },
    expire: (organizationId, keyId) =>
      change(null, { organizationId, keyId }, { operation: 'expire', input: null, idempotencyKey: null }, () => ({
        command: { kind: 'expire' },
      })),
  };

  function under(policy: KeyPolicy): Under {
    return { decidedOn: { streams: policy.decidedOn }, keyOperationsPerHour: operationsUnder(policy, context.keyOperationsPerHour) };
  }

  async function simple(actor: Actor, raw: unknown, operation: string, command: KeyCommand): Promise<Outcome<KeyResult>> {
    const input = parseInput(keyIdSchema, raw);
    if (!input.ok) return input.refusal;
    const { id, idempotencyKey } = input.value;
    return change(actor, { organizationId: actor.organizationId, keyId: id }, { operation, input: { id }, idempotencyKey }, () => ({
      command,
    }));
  }
}

/** Folds the decided events onto the state and says what the statement that appends them has to write. */
function decided(facts: {
  readonly actorId: string;
  readonly organizationId: string;
  readonly state: KeyState;
  readonly version: number;
  readonly events: readonly KeyEvent[];
  readonly minted: MintedSecret | undefined;
}): Decision<KeyResult> {
  const { actorId, organizationId, version, events, minted } = facts;
  const state = events.reduce(evolveKey, facts.state);
  if (state.kind === 'absent') throw new Error('A decided key command left no key.');
  const { keyId } = state;
  const created = facts.state.kind === 'absent';
  const row = writeKeyRow(state, { organizationId, version: version + events.length, actorId, created, newSecret: minted !== undefined });
  return {
    streams: [{ organizationId, stream: streamOf.key(keyId), version, events }],
    effects: [
      row,
      ...(created ? [...newWindowRows(state.number), requireFunds(organizationId)] : []),
      ...events.flatMap((event) => verifierEffects(state, event, minted)),
    ],
    result: { keyId },
    subjectId: keyId,
    ...(minted === undefined ? {} : { secret: minted.secret }),
  };
}

/** Null from GraphQL clears what can be cleared, and for the rest means "leave it". */
function clearable(given: { readonly [Name in keyof KeySettings]?: KeySettings[Name] | null | undefined }): Partial<KeySettings> {
  const nullable = new Set(['expiresAt', 'profileId', 'rotateEveryDays']);
  return Object.fromEntries(
    Object.entries(given).filter(([name, value]) => value !== undefined && (value !== null || nullable.has(name))),
  ) as Partial<KeySettings>;
}

/** What the tables themselves refuse, under the log's lock: a name that is taken, a profile that is not there or not of the organization. */
async function refuseByTables<Result>(outcome: Promise<Outcome<Result>>): Promise<Outcome<Result>> {
  try {
    return await outcome;
  } catch (error) {
    if (isUniqueViolation(error, 'api_keys_name')) return refusal('NAME_TAKEN', undefined, 'name');
    if (isForeignKeyViolation(error, 'api_keys_profile'))
      return refusal('NOT_FOUND', 'There is no such profile in your organization', 'profileId');
    throw error;
  }
}
