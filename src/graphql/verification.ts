import type { UsageItem, VerifiedKey, VerifyAnswer } from '../admission/admission.ts';
import { createUsageItemSchema, MAX_USAGE_ITEMS } from '../admission/usage-input.ts';
import { verifyInputSchema } from '../admission/verify-input.ts';
import { parseInput } from '../commands/input.ts';
import { refusal, REQUEST_REFUSALS, type Refusal } from '../domain/refusals.ts';
import { headPosition } from '../ledger/append.ts';
import type { Builder } from './builder.ts';
import { encodeGlobalId, idOf } from './global-id.ts';
import type { Enums } from './enums.ts';
import { addMutation, type RefusalTypes } from './mutation-result.ts';
import { badUserInput, topLevelError } from './client-error.ts';
import { actorOf, type GraphqlContext } from './context.ts';

type Verified = { readonly answer: VerifyAnswer; readonly position: bigint };
type Recorded = { readonly accepted: number; readonly duplicates: number; readonly position: bigint };
type Remaining = { readonly limit: number; readonly remaining: number };

export function addVerification(builder: Builder, enums: Enums, refusals: RefusalTypes): void {
  const verifiedKey = builder.objectRef<VerifiedKey>('VerifiedApiKey').implement({
    description: 'What a gateway is told about a key that may pass.',
    fields: (t) => ({
      id: t.id({ description: 'Global id.', resolve: (key) => encodeGlobalId('ApiKey', key.id) }),
      keyId: t.id({ description: 'The plain UUID.', resolve: (key) => key.id }),
      name: t.exposeString('name'),
      type: t.field({ type: enums.keyType, resolve: (key) => key.type }),
      category: t.exposeString('category'),
      permissions: t.stringList({ resolve: (key) => [...key.permissions] }),
      metadata: t.field({ type: 'JSON', resolve: (key) => key.metadata }),
      expiresAt: t.field({ type: 'DateTime', nullable: true, resolve: (key) => key.expiresAt }),
      profileName: t.string({ nullable: true, resolve: (key) => key.profile?.name ?? null }),
      profileSettings: t.field({ type: 'JSON', nullable: true, resolve: (key) => key.profile?.settings ?? null }),
      organizationId: t.id({ resolve: (key) => encodeGlobalId('Organization', key.organizationId) }),
      ownerId: t.id({
        nullable: true,
        resolve: (key) => (key.ownerId === null ? null : encodeGlobalId('Member', `${key.organizationId}:${key.ownerId}`)),
      }),
      outdatedSecret: t.exposeBoolean('outdatedSecret', {
        description: 'It was let through with the secret before the last regeneration.',
      }),
    }),
  });
  const rateLimit = builder.objectRef<NonNullable<VerifyAnswer['rateLimit']>>('VerifiedRateLimit').implement({
    fields: (t) => ({
      limit: t.exposeFloat('limit'),
      remaining: t.exposeFloat('remaining'),
      resetAt: t.field({ type: 'DateTime', resolve: ({ resetEpochSeconds }) => new Date(resetEpochSeconds * 1000) }),
    }),
  });
  const quota = builder.objectRef<Remaining & { readonly window: 'TOTAL' | 'DAILY' | 'WEEKLY' | 'MONTHLY' }>('VerifiedQuota').implement({
    fields: (t) => ({
      window: t.field({ type: enums.quotaWindow, resolve: ({ window }) => window }),
      limit: t.exposeFloat('limit'),
      remaining: t.exposeFloat('remaining'),
    }),
  });

  const payload = builder.objectRef<Verified>('VerifyApiKeyPayload').implement({
    description: 'Whether a key may pass, and what the gateway should know about that.',
    fields: (t) => ({
      position: t.field({
        type: 'Position',
        description: "Of the recorded request; where none was recorded, the log's head.",
        resolve: ({ position }) => position,
      }),
      valid: t.boolean({ resolve: ({ answer }) => answer.code === 'VALID' }),
      code: t.field({ type: enums.verificationCode, resolve: ({ answer }) => answer.code }),
      message: t.string({ nullable: true, resolve: ({ answer }) => answer.message }),
      httpStatus: t.int({ description: 'What the end client should be answered.', resolve: ({ answer }) => answer.httpStatus }),
      requestId: t.string({ resolve: ({ answer }) => answer.requestId }),
      keyId: t.id({ nullable: true, description: 'The plain UUID, where the secret was right.', resolve: ({ answer }) => answer.keyId }),
      key: t.field({ type: verifiedKey, nullable: true, description: 'Told only where it may pass.', resolve: ({ answer }) => answer.key }),
      rateLimit: t.field({ type: rateLimit, nullable: true, resolve: ({ answer }) => answer.rateLimit }),
      quotas: t.field({ type: [quota], resolve: ({ answer }) => [...answer.quotas] }),
      quota: t.string({
        nullable: true,
        description: 'With QUOTA_EXCEEDED: total, daily, weekly or monthly.',
        resolve: ({ answer }) => refusedBy(answer, 'quota'),
      }),
      limit: t.string({
        nullable: true,
        description: 'With RATE_LIMITED: key_minute, key_tokens, organization_second or organization_minute.',
        resolve: ({ answer }) => refusedBy(answer, 'limit'),
      }),
      retryAfter: t.int({
        nullable: true,
        description: 'Seconds until a request of this cost could pass; null where none will by waiting.',
        resolve: ({ answer }) => answer.refusedBy?.retryAfterSeconds ?? null,
      }),
    }),
  });
  const input = builder.inputType('VerifyApiKeyInput', {
    fields: (t) => ({
      key: t.string({ required: true, description: 'As the end client presented it.' }),
      permissions: t.stringList({ description: 'All of them are needed.' }),
      cost: t.int({ description: 'By default 1; 0 asks without consuming.' }),
      endpoint: t.string({ description: 'Method and path.' }),
      ip: t.string({ description: "The end client's address." }),
      origin: t.string(),
      environment: t.field({ type: enums.environment }),
      requestId: t.string({ description: 'An id that was answered before gets that answer again and consumes nothing.' }),
    }),
  });
  builder.mutationField('verifyApiKey', (t) =>
    t.field({
      type: payload,
      description:
        'May this key pass? The same decision as `POST /v1/verify`, which costs less. Consumes limits and records the request, unless `cost` is 0.',
      // Whose token is still unchecked is refused by the statement that verifies.
      authScopes: (_root, _args, { unchecked }) => (unchecked === null ? { permission: 'keys:verify' } : true),
      args: { input: t.arg({ type: input, required: true }) },
      resolve: async (_root, args, context): Promise<Verified> => verifyKey(context, args.input),
    }),
  );

  const usageItem = builder.inputType('UsageItemInput', {
    description: 'One request. With the `requestId` of a verification it completes that request; otherwise `keyId` is needed.',
    fields: (t) => ({
      requestId: t.string(),
      keyId: t.id({ description: 'The plain UUID, or the global id.' }),
      at: t.field({ type: 'DateTime' }),
      endpoint: t.string({ required: true }),
      status: t.int({ required: true }),
      durationMs: t.int({ required: true, description: 'To the first byte.' }),
      ip: t.string(),
      credits: t.int(),
      costMicros: t.float({ description: 'Millionths of the currency, a whole number.' }),
      tokensIn: t.float(),
      tokensOut: t.float(),
      model: t.string(),
    }),
  });
  addMutation<Recorded>(builder, refusals, {
    name: 'recordUsage',
    description: `Reports up to ${MAX_USAGE_ITEMS} requests, all or none, in one commit. A \`requestId\` that was reported before counts as a duplicate and changes nothing.`,
    permissions: ['usage:write'],
    idempotent: false,
    input: (t) => ({ items: t.field({ type: [usageItem], required: true }) }),
    refusals: ['INVALID_INPUT'],
    payload: (t) => ({
      accepted: t.exposeInt('accepted'),
      duplicates: t.exposeInt('duplicates'),
    }),
    async run(actor, raw, { deps }) {
      const items = parseItems(raw['items']);
      if ('kind' in items) return items;
      const outcome = await deps.admission.recordUsage(actor.organizationId, items.values);
      return outcome.kind === 'recorded' ? outcome : refusal('INVALID_INPUT', outcome.message, `items.${outcome.index}`);
    },
  });
}

/** The arguments of `verifyApiKey` as graphql-js coerces them. */
export type VerifyArguments = { readonly input: Readonly<Record<string, unknown>> };

/** The use case of `verifyApiKey`. */
export async function verifyKey(context: GraphqlContext, input: VerifyArguments['input']): Promise<Verified> {
  const parsed = parseInput(verifyInputSchema, { ...input });
  if (!parsed.ok) throw badUserInput(parsed.refusal.message);
  const { admission, database } = context.deps;
  const answer = await (context.unchecked === null
    ? admission.verify({ kind: 'organization', organizationId: actorOf(context).organizationId }, parsed.value)
    : context.unchecked.verify(parsed.value));
  if (answer.kind === 'request-id-taken') throw badUserInput(`'requestId': ${REQUEST_REFUSALS.REQUEST_ID_TAKEN.message}.`);
  if (answer.kind !== 'answer')
    throw topLevelError(answer.kind === 'forbidden' ? 'FORBIDDEN' : 'UNAUTHENTICATED', 'These credentials can not verify keys any more.');
  return { answer, position: answer.position ?? (await headPosition(database.kysely)) };
}

function refusedBy({ refusedBy: rule }: VerifyAnswer, kind: 'quota' | 'limit'): string | null {
  if (rule === null) return null;
  if ('quota' in rule) return kind === 'quota' ? rule.quota : null;
  return kind === 'limit' ? rule.limit : null;
}

const usageItemSchema = createUsageItemSchema(() => new Date());

function parseItems(raw: unknown): { readonly values: readonly UsageItem[] } | Refusal {
  const list: readonly unknown[] = Array.isArray(raw) ? raw : [];
  if (list.length > MAX_USAGE_ITEMS) return refusal('INVALID_INPUT', `One report holds ${MAX_USAGE_ITEMS} items at most.`, 'items');
  const values: UsageItem[] = [];
  for (const [index, item] of list.entries()) {
    const parsed = parseInput(usageItemSchema, withPlainId(item));
    if (!parsed.ok)
      return refusal(
        'INVALID_INPUT',
        parsed.refusal.message,
        `items.${index}${parsed.refusal.field === undefined ? '' : `.${parsed.refusal.field}`}`,
      );
    values.push(parsed.value);
  }
  return { values };
}

function withPlainId(item: unknown): unknown {
  if (typeof item !== 'object' || item === null || !('keyId' in item) || typeof item.keyId !== 'string') return item;
  return { ...item, keyId: idOf('ApiKey', item.keyId) ?? item.keyId };
}
