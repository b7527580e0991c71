import { streamOf } from '../domain/event.ts';

/** What a global id can stand for. */
export const NODE_TYPES = [
  'ApiKey',
  'Organization',
  'Member',
  'AccessToken',
  'Profile',
  'LedgerEvent',
  'Alert',
  'AlertRule',
  'WebhookEndpoint',
  'WebhookDelivery',
] as const;
export type NodeType = (typeof NODE_TYPES)[number];
/** Beside these a person, who spans organizations: the log is about them, and they can be looked up in no organization. */
export type IdType = NodeType | 'Person';

const UUID = '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}';
const SHAPES: Readonly<Record<IdType, RegExp>> = {
  ApiKey: new RegExp(`^${UUID}$`),
  Organization: new RegExp(`^${UUID}$`),
  Member: new RegExp(`^${UUID}:${UUID}$`),
  AccessToken: new RegExp(`^${UUID}$`),
  LedgerEvent: /^(?:0|[1-9]\d{0,17})$/,
  Alert: new RegExp(`^${UUID}$`),
  AlertRule: new RegExp(`^${UUID}$`),
  WebhookEndpoint: new RegExp(`^${UUID}$`),
  WebhookDelivery: new RegExp(`^${UUID}$`),
  Profile: new RegExp(`^${UUID}$`),
  Person: new RegExp(`^${UUID}$`),
};

/** Relay's global id: base64 of `<type>:<id>`. Clients must treat it as opaque. */
export function encodeGlobalId(type: IdType, id: string | number | bigint): string {
  return Buffer.from(`${type}:${id}`).toString('base64');
}

/** The type and id behind a global id; null for any text that this server would not have made, so that no garbage reaches the database. */
export function decodeGlobalId(text: string): { readonly type: IdType; readonly id: string } | null {
  if (text.length > 200) return null;
  const decoded = Buffer.from(text, 'base64').toString('utf8');
  const colon = decoded.indexOf(':');
  const type = decoded.slice(0, Math.max(colon, 0));
  const id = decoded.slice(colon + 1);
  if (!isIdType(type) || !SHAPES[type].test(id) || encodeGlobalId(type, id) !== text) return null;
  return { type, id };
}

/** The id behind a global id of one type; null for any other text. */
export function idOf(type: IdType, text: string): string | null {
  const decoded = decodeGlobalId(text);
  return decoded?.type === type ? decoded.id : null;
}

/** The id of a member is unique within its organization only. */
export function splitMemberId(id: string): { readonly organizationId: string; readonly memberId: string } {
  const [organizationId = '', memberId = ''] = id.split(':');
  return { organizationId, memberId };
}

/** What the streams of each kind tell about. */
const SUBJECTS: ReadonlyMap<string, IdType> = new Map(
  Object.entries({
    organization: 'Organization',
    token: 'AccessToken',
    profile: 'Profile',
    key: 'ApiKey',
    alertRule: 'AlertRule',
    alert: 'Alert',
    person: 'Person',
    webhook: 'WebhookEndpoint',
  } as const satisfies Readonly<Record<keyof typeof streamOf, IdType>>).map(([kind, type]) => [
    streamOf[kind as keyof typeof streamOf](''),
    type,
  ]),
);
const PREFIXES: ReadonlyMap<IdType, string> = new Map([...SUBJECTS].map(([prefix, type]) => [type, prefix]));

/** The global id of what a stream of the log tells about. */
export function subjectOfStream(stream: string): string {
  const end = stream.indexOf(':') + 1;
  const type = SUBJECTS.get(stream.slice(0, end));
  if (type === undefined) throw new Error(`The log has a stream '${stream.slice(0, end)}…' that GraphQL has no type for.`);
  return encodeGlobalId(type, stream.slice(end));
}

/** The stream of the log that tells about what a global id stands for; null where it has none. */
export function streamOfSubject(text: string): string | null {
  const decoded = decodeGlobalId(text);
  const prefix = decoded === null ? undefined : PREFIXES.get(decoded.type);
  return decoded === null || prefix === undefined ? null : `${prefix}${decoded.id}`;
}

function isIdType(text: string): text is IdType {
  return Object.hasOwn(SHAPES, text);
}
