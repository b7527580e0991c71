import { setTimeout as sleep } from 'node:timers/promises';
import { sql, type Kysely } from 'kysely';

import { isRefusal, refusal, type Refusal } from '../domain/refusals.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import type { Secret } from '../lib/secret.ts';
import type { Tables } from '../postgres/tables.ts';
import { append, headPosition, isPostgresError, isUniqueViolation, isVersionConflict, type Effect, type StreamAppend } from './append.ts';
import { findReplay, rememberAnswer, type IdempotentRequest, type SealingKeys } from './idempotency.ts';

const SECOND_MS = 1000;
/** So long a command that loses against others decides again; then its caller is told to try later. */
const RETRY_FOR_MS = 10 * SECOND_MS;

/** What a command decided: the events, the state that follows from them, and the answer to give. */
export type Decision<Result extends JsonValue> = {
  readonly streams: readonly StreamAppend[];
  readonly effects: readonly Effect[];
  /** What the caller is told, and a retry again; without secrets. */
  readonly result: Result;
  /** Shown in the answer; a retry with the same idempotency key is shown it again for an hour. */
  readonly secret?: Secret;
  /** The key whose deletion erases the sealed secret. */
  readonly subjectId?: string;
};

export type Command<Result extends JsonValue> = {
  readonly actorId: string;
  /** Name of the mutation, part of what an idempotency key stands for. */
  readonly operation: string;
  readonly input: JsonValue;
  readonly idempotencyKey: Secret | null;
  readonly keyOperationsPerHour?: number | null;
  /** Loads and decides; called again after each lost race. `now` is the database's clock. */
  readonly decide: (now: Date) => Promise<Decision<Result> | Refusal>;
};

export type Done<Result> = {
  readonly kind: 'done';
  readonly result: Result;
  /** Of the last event that the command appended, or of the log's head where nothing had to change. */
  readonly position: bigint;
  readonly secret: Secret | null;
  /** An earlier request with the same idempotency key did it. */
  readonly replayed: boolean;
};
export type Outcome<Result> = Done<Result> | Refusal;

/** The actor has reached its key operations of the hour. */
export class KeyOperationLimitError extends Error {
  readonly retryAfterSeconds: number;
  constructor(limit: number, retryAfterSeconds: number) {
    super(`At most ${limit} keys can be created or regenerated per hour; try again in ${retryAfterSeconds} seconds.`);
    this.name = 'KeyOperationLimitError';
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/** Others changed the same object again and again for the whole of the retry time. */
export class ContentionError extends Error {
  constructor(operation: string) {
    super(`${operation} lost against other changes of the same object for ${RETRY_FOR_MS / SECOND_MS} seconds; try again.`);
    this.name = 'ContentionError';
  }
}

export type CommandContext = { readonly db: Kysely<Tables>; readonly sealingKeys: SealingKeys };

/**
 * Runs a command against the log: load, decide, append, with optimistic concurrency. Nothing is written unless all of it is, in one statement.
 * Throws {@link KeyOperationLimitError}, {@link ContentionError}, and what the database throws.
 */
export async function runCommand<Result extends JsonValue>(context: CommandContext, command: Command<Result>): Promise<Outcome<Result>> {
  const request: IdempotentRequest | null =
    command.idempotencyKey === null
      ? null
      : { actorId: command.actorId, operation: command.operation, key: command.idempotencyKey, input: command.input };
  const deadline = performance.now() + RETRY_FOR_MS;
  for (let attempt = 0; ; attempt++) {
    if (request !== null) {
      const replay = await findReplay(context.db, context.sealingKeys, request);
      if (replay.kind === 'conflict') return refusal('IDEMPOTENCY_CONFLICT', undefined, 'idempotencyKey');
      // The stored result was written by this same operation for this same input: its shape is Result's.
      if (replay.kind === 'replay')
        return { kind: 'done', result: replay.result as Result, position: replay.position, secret: replay.secret, replayed: true };
    }
    const decision = await command.decide(await databaseNow(context.db));
    if (isRefusal(decision)) return decision;
    try {
      return await commit(context, command, decision, request);
    } catch (error) {
      if (isPostgresError(error) && error.code === 'KL001')
        throw new KeyOperationLimitError(command.keyOperationsPerHour ?? 0, Number(error.detail ?? 3600));
      if (isPostgresError(error) && error.code === 'KL002') return refusal('INSUFFICIENT_BALANCE');
      // 40P01 and 40001 are the server's own "try again".
      const lost =
        isVersionConflict(error) ||
        isUniqueViolation(error, 'idempotency_pkey') ||
        (isPostgresError(error) && ['40P01', '40001'].includes(error.code));
      if (!lost) throw error;
      if (performance.now() > deadline) throw new ContentionError(command.operation);
      // Full jitter, so that fifty that lost together don't come back together.
      await sleep(Math.random() * Math.min(100, 2 * 2 ** Math.min(attempt, 6)));
    }
  }
}

async function commit<Result extends JsonValue>(
  { db, sealingKeys }: CommandContext,
  command: Command<Result>,
  decision: Decision<Result>,
  request: IdempotentRequest | null,
): Promise<Outcome<Result>> {
  const secret = decision.secret ?? null;
  const remember =
    request === null
      ? []
      : [rememberAnswer(sealingKeys, request, { result: decision.result, secret, subjectId: decision.subjectId ?? null })];
  const streams = decision.streams.filter((stream) => stream.events.length > 0);
  if (streams.length === 0) {
    const position = await headPosition(db);
    // Nothing to append, but the idempotency key is spent all the same: a retry with another input is told so.
    if (remember[0] !== undefined)
      await sql`WITH appended AS (SELECT ${position}::bigint AS last_position) ${remember[0].statement}`.execute(db);
    return { kind: 'done', result: decision.result, position, secret, replayed: false };
  }
  const { lastPosition } = await append(db, {
    actorId: command.actorId,
    streams,
    effects: [...decision.effects, ...remember],
    keyOperationsPerHour: command.keyOperationsPerHour ?? null,
  });
  return { kind: 'done', result: decision.result, position: lastPosition, secret, replayed: false };
}

/** The database's clock: the only one that decides anything. */
export async function databaseNow(db: Kysely<Tables>): Promise<Date> {
  const { rows } = await sql<{ now: Date }>`SELECT ledger_now() AS now`.execute(db);
  const now = rows[0]?.now;
  if (now === undefined) throw new Error('The database answered no time.');
  return now;
}
