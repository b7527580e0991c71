import { z } from 'zod';
import { organizationSettingsSchema } from './organization-settings.ts';
import { alertEvents, alertRuleEvents } from './alert-schemas.ts';
import { PERMISSIONS, ROLES, type Permission } from './permissions.ts';

// An event is a past-tense fact. It changes only by optional fields or by a new type; schema/events.json is printed from here and compared in CI.

const uuid = z.uuid();
const moment = z.iso.datetime();
const permissionName = z.enum(Object.keys(PERMISSIONS) as [Permission, ...Permission[]]);
const cap = z.int().positive().nullable();

export const quotasSchema = z.object({ total: cap, daily: cap, weekly: cap, monthly: cap });
export const limitsSchema = z.object({ requestsPerMinute: cap, tokensPerMinute: cap });

/** The parts of a key that can be changed after its creation. */
const keySettings = {
  name: z.string(),
  category: z.string(),
  permissions: z.array(z.string()),
  expiresAt: moment.nullable(),
  profileId: uuid.nullable(),
  metadata: z.record(z.string(), z.json()),
  ipAllowlist: z.array(z.string()),
  allowedOrigins: z.array(z.string()),
  quotas: quotasSchema,
  limits: limitsSchema,
  rotateEveryDays: z.int().positive().nullable(),
};
export const keySettingsSchema = z.object(keySettings);
export type KeySettings = Readonly<z.infer<typeof keySettingsSchema>>;

const secretFacts = {
  lookupId: z.string().describe('public part of the secret, by which it is found'),
  masked: z.string().describe('the first 8 and the last 4 characters'),
  verifierFingerprint: z.string().describe('SHA-256, in hex, of the argon2id verifier, so that a swapped verifier shows'),
};

const newKey = {
  keyId: uuid,
  number: z.int().positive(),
  type: z.enum(['PUBLIC', 'SECRET', 'TEST']),
  ownerId: uuid.nullable().describe('the member whose personal key it is; null for a team key'),
  ...keySettings,
  ...secretFacts,
};

const keyEvents = {
  KeyCreated: z.object(newKey),
  KeyImported: z
    .object({
      ...newKey,
      masked: z.string().describe('what is known of the beginning and the end of a secret that was made elsewhere'),
      verifierFingerprint: z
        .string()
        .describe('SHA-256, in hex, of the salted form that the imported hash is kept in until the key is first used'),
    })
    .describe('a key whose secret was made elsewhere and is known here by its hash alone'),
  VerifierReplaced: z
    .object({ lookupId: z.string(), verifierFingerprint: secretFacts.verifierFingerprint })
    .describe('an imported secret was presented, and has an argon2id verifier from here on'),
  Updated: keySettingsSchema.partial().describe('the settings that changed, with their new values'),
  Activated: z.object({}),
  Deactivated: z.object({}),
  Regenerated: z.object({
    ...secretFacts,
    overlapUntil: moment.nullable().describe('until when the secret before this one still works; null: it stopped at once'),
  }),
  Expired: z.object({ expiresAt: moment }),
  Deleted: z.object({ name: z.string() }),
  Archived: z
    .object({ reason: z.enum(['TEAM_JOINED', 'OWNER_LEFT']) })
    .describe('a personal key that is refused as inactive while its owner belongs to a team, or since they left the organization'),
  Restored: z.object({}).describe('its owner belongs to no team any more'),
};

/** Of a person, each recorded for the organization that it happened in. */
const personEvents = {
  PersonalKeyAdded: z.object({ keyId: uuid, ownerId: uuid.describe('the member who owns it') }),
  TeamJoined: z
    .object({ memberId: uuid.describe('what the person is called in the team') })
    .describe('a team, or an organization that has become one'),
  TeamLeft: z.object({ memberId: uuid }).describe('the organization is no team any more; the membership goes on'),
  MembershipEnded: z.object({ memberId: uuid }),
};

const organizationEvents = {
  OrganizationCreated: z.object({
    organizationId: uuid,
    number: z.int().positive(),
    name: z.string(),
    plan: z.string(),
    team: z
      .boolean()
      .optional()
      .describe('whoever joins it works with its keys: their personal keys, wherever they are, are archived meanwhile'),
  }),
  OrganizationRenamed: z.object({ name: z.string() }),
  OrganizationTeamChanged: z.object({ team: z.boolean() }).describe('it became a team, or is none any more: see OrganizationCreated'),
  PlanChanged: z.object({
    plan: z.string(),
    requestsPerSecond: cap.describe('over all keys, in any second; null for no cap'),
    requestsPerMinute: cap.describe('over all keys, in any minute; null for no cap'),
  }),
  BalanceEnabled: z.object({}).describe('from here on usage is charged, and keys pass only while funds last'),
  BalanceDisabled: z.object({}).describe('nothing is charged any more, and no key waits for funds; what was left counts no more'),
  FundsAdded: z.object({ micros: z.int().positive().describe('millionths of the currency') }),
  OrganizationSettingsChanged: organizationSettingsSchema.partial().describe('the settings that changed, with their new values'),
  MemberAdded: z.object({
    memberId: uuid,
    role: z.enum(ROLES),
    personId: uuid.optional().describe('who the member is in the histories of persons; the member id itself where it is left out'),
  }),
  MemberRoleChanged: z.object({ memberId: uuid, role: z.enum(ROLES) }),
  MemberRemoved: z.object({ memberId: uuid }),
};

const tokenEvents = {
  AccessTokenIssued: z.object({
    tokenId: uuid,
    name: z.string().describe('what the token is for; not the name of a person'),
    memberId: uuid.nullable().describe('the member it acts as; null for a service'),
    permissions: z.array(permissionName).nullable().describe('null: whatever the role of the member allows'),
    expiresAt: moment.nullable(),
    tokenHash: z.string().describe('SHA-256, in hex, of the token'),
  }),
  AccessTokenRevoked: z.object({}),
};

const fingerprint = z.string().describe('SHA-256, in hex, of the signing secret');
const webhookSettings = { url: z.string(), description: z.string(), eventTypes: z.array(z.string()).describe('types of this file') };
const webhookEvents = {
  WebhookEndpointCreated: z.object({ endpointId: uuid, ...webhookSettings, secretFingerprint: fingerprint }),
  WebhookEndpointUpdated: z
    .object({ ...webhookSettings, active: z.boolean() })
    .partial()
    .describe('what changed, with its new values'),
  WebhookEndpointDisabled: z.object({
    reason: z.enum(['GONE', 'FAILING']).describe('the receiver answered 410, or nothing but failures for days'),
  }),
  WebhookEndpointSecretRotated: z.object({
    secretFingerprint: fingerprint,
    overlapUntil: moment.nullable().describe('until when the secret before this one signs, too; null: it stopped at once'),
  }),
  WebhookEndpointDeleted: z.object({}),
  WebhookTestRequested: z.object({}).describe('delivered to this endpoint alone'),
  WebhookRedeliveryRequested: z.object({ position: z.string().describe('of the event that was sent again, a decimal integer') }),
};

const profileSettings = z.record(z.string(), z.json());
const profileEvents = {
  ProfileCreated: z.object({ profileId: uuid, name: z.string(), settings: profileSettings }),
  ProfileUpdated: z.object({ name: z.string(), settings: profileSettings }).partial().describe('what changed, with its new value'),
  ProfileDeleted: z.object({ name: z.string() }),
};

const usageCount = z.string().describe('a decimal integer');
/** Usage events are stored as typed rows and shown in this form. */
const usageFields = {
  keyId: uuid,
  kind: z.int().describe('1 by a verification, 2 by a report, 3 settling'),
  code: z.int().describe('the outcome, numbered in src/domain/usage.ts'),
  credits: z.int().nonnegative(),
  status: z.int().optional(),
  durationMs: z.int().optional(),
  occurredAt: z.string().optional(),
  settles: usageCount.optional().describe('position of the UsageRecorded that it completes'),
  costMicros: usageCount.optional(),
  tokensIn: usageCount.optional(),
  tokensOut: usageCount.optional(),
  ip: z.string().optional(),
  endpoint: z.string().optional(),
  model: z.string().optional(),
  requestId: z.string().optional(),
  detail: z.string().optional(),
};
const usageEvents = { UsageRecorded: z.object(usageFields), UsageSettled: z.object(usageFields) };

export const KEY_EVENT_SCHEMAS = keyEvents;
export const ORGANIZATION_EVENT_SCHEMAS = organizationEvents;
export const TOKEN_EVENT_SCHEMAS = tokenEvents;
export const PERSON_EVENT_SCHEMAS = personEvents;
export const WEBHOOK_EVENT_SCHEMAS = webhookEvents;
/** The schema of each event type's `data`. */
export const EVENT_SCHEMAS = {
  ...organizationEvents,
  ...tokenEvents,
  ...personEvents,
  ...profileEvents,
  ...keyEvents,
  ...alertRuleEvents,
  ...alertEvents,
  ...webhookEvents,
  ...usageEvents,
};

type EventsOf<Schemas extends Readonly<Record<string, z.ZodType>>> = {
  [Type in keyof Schemas & string]: { readonly type: Type; readonly data: Readonly<z.infer<Schemas[Type]>> };
}[keyof Schemas & string];

export type KeyEvent = EventsOf<typeof keyEvents>;
export type OrganizationEvent = EventsOf<typeof organizationEvents>;
export type TokenEvent = EventsOf<typeof tokenEvents>;
export type WebhookEvent = EventsOf<typeof webhookEvents>;
export type AlertRuleEvent = EventsOf<typeof alertRuleEvents>;
export type AlertEvent = EventsOf<typeof alertEvents>;
export type PersonEvent = EventsOf<typeof personEvents>;
export type ProfileEvent = EventsOf<typeof profileEvents>;
/** What a decider can produce; usage events are appended by admission. */
export type LifecycleEvent =
  | KeyEvent
  | OrganizationEvent
  | TokenEvent
  | PersonEvent
  | ProfileEvent
  | AlertRuleEvent
  | AlertEvent
  | WebhookEvent;
export type EventType = keyof typeof EVENT_SCHEMAS;
export const EVENT_TYPES = Object.keys(EVENT_SCHEMAS) as readonly EventType[];

/** An event as it stands in the log: the envelope around a fact. */
export type Recorded<Event extends LifecycleEvent = LifecycleEvent> = Event & {
  readonly position: bigint;
  readonly organizationId: string;
  readonly stream: string;
  readonly version: number;
  /** `member:<id>`, `service:<token id>` or `system`. */
  readonly actorId: string;
  readonly recordedAt: Date;
};

/** Names of streams: one for each aggregate. */
export const streamOf = {
  organization: (id: string): string => `organization:${id}`,
  token: (id: string): string => `token:${id}`,
  profile: (id: string): string => `profile:${id}`,
  key: (id: string): string => `key:${id}`,
  alertRule: (id: string): string => `alert-rule:${id}`,
  alert: (id: string): string => `alert:${id}`,
  person: (id: string): string => `person:${id}`,
  webhook: (id: string): string => `webhook:${id}`,
} as const;

function parseWith<Event extends LifecycleEvent>(schemas: Readonly<Record<string, z.ZodType>>, type: string, data: unknown): Event {
  const schema = schemas[type];
  if (schema === undefined) {
    throw new Error(
      `The log holds an event of type '${type}' in a stream where this version knows no such type: it was written by a newer version; upgrade before you go on.`,
    );
  }
  // The schema of the type was applied on the line above: this is the edge where stored text becomes a typed fact.
  return { type, data: schema.parse(data) } as unknown as Event;
}

/** Turns a stored row into a fact, or throws where the type is unknown: state is never decided on half a history. */
export const parseEvent = {
  key: (type: string, data: unknown): KeyEvent => parseWith(keyEvents, type, data),
  organization: (type: string, data: unknown): OrganizationEvent => parseWith(organizationEvents, type, data),
  token: (type: string, data: unknown): TokenEvent => parseWith(tokenEvents, type, data),
  alertRule: (type: string, data: unknown): AlertRuleEvent => parseWith(alertRuleEvents, type, data),
  alert: (type: string, data: unknown): AlertEvent => parseWith(alertEvents, type, data),
  person: (type: string, data: unknown): PersonEvent => parseWith(personEvents, type, data),
  webhook: (type: string, data: unknown): WebhookEvent => parseWith(webhookEvents, type, data),
  profile: (type: string, data: unknown): ProfileEvent => parseWith(profileEvents, type, data),
} as const;
