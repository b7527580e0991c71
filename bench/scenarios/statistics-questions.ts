const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

export type Question = {
  readonly name: string;
  readonly query: string;
  readonly variables: () => Readonly<Record<string, unknown>>;
  /** Always of the key that has a tenth of all requests. */
  readonly hot?: boolean;
  readonly onAnswer?: (text: string) => void;
};

const TOTALS =
  'totals { requests succeeded failed refused successRate errorRate cost tokensIn tokensOut models refusals { code count } } lastUsedAt';
const SERIES = 'series { at requests failed refused cost tokensIn tokensOut }';

type Period = { readonly from: string; readonly to: string };

/** Up to now, so that its edges are cut at minutes. */
const last = (ms: number): Period => ({ from: new Date(Date.now() - ms).toISOString(), to: new Date().toISOString() });

function ofKey(fields: string): string {
  return `query Q($key: ID!, $from: DateTime!, $to: DateTime!, $granularity: UsageGranularity) {
    node(id: $key) { ... on ApiKey { usage(from: $from, to: $to, granularity: $granularity) { ${fields} } } } }`;
}

function ofOrganization(fields: string, category: boolean): string {
  return `query Q($organization: ID!, $from: DateTime!, $to: DateTime!, $granularity: UsageGranularity${category ? ', $category: String' : ''}) {
    node(id: $organization) { ... on Organization {
      usage(from: $from, to: $to, granularity: $granularity${category ? ', category: $category' : ''}) { ${fields} } } } }`;
}

function usage(name: string, query: string, periodMs: number, granularity: string, hot = false): Question {
  return { name, query, variables: () => ({ ...last(periodMs), granularity }), hot };
}

export const USAGE_QUESTIONS: readonly Question[] = [
  usage('totals of a key, a year', ofKey(TOTALS), 365 * DAY, 'DAY'),
  usage('totals of the busiest key, a year', ofKey(TOTALS), 365 * DAY, 'DAY', true),
  usage('totals of a category of 1,000 keys, a year', ofOrganization(TOTALS, true), 365 * DAY, 'DAY'),
  usage('totals of the organization, a year', ofOrganization(TOTALS, false), 365 * DAY, 'DAY'),
  usage('totals of the organization, 100 minutes', ofOrganization(TOTALS, false), 100 * MINUTE, 'MINUTE'),
  usage('series of the busiest key, a year by day', ofKey(SERIES), 365 * DAY, 'DAY', true),
  usage('series of the busiest key, a year by hour', ofKey(SERIES), 365 * DAY, 'HOUR', true),
  usage('series of a category of 1,000 keys, a month by hour', ofOrganization(SERIES, true), 30 * DAY, 'HOUR'),
  usage('series of a category of 1,000 keys, a year by day', ofOrganization(SERIES, true), 365 * DAY, 'DAY'),
  usage('series of a category of 1,000 keys, a year by hour', ofOrganization(SERIES, true), 365 * DAY, 'HOUR'),
  usage('series of the organization, a month by hour', ofOrganization(SERIES, false), 30 * DAY, 'HOUR'),
  usage('series of the organization, a year by hour', ofOrganization(SERIES, false), 365 * DAY, 'HOUR'),
  usage('series of the organization, a day by minute', ofOrganization(SERIES, false), DAY, 'MINUTE'),
  usage('series of the organization, 6 days by minute', ofOrganization(SERIES, false), 6 * DAY, 'MINUTE'),
];

const LOG =
  'requestLog(first: $first, after: $after) { edges { node { position requestId at endpoint status durationMs ip credits code apiKey { id name } } } pageInfo { endCursor hasNextPage } }';

function paged(name: string, query: string, first: number, extra: Readonly<Record<string, unknown>> = {}, hot = false): Question {
  let after: string | null = null;
  return {
    name,
    query,
    hot,
    variables: () => ({ first, after, ...extra }),
    onAnswer(text) {
      // The next page each time, and from the start again behind the last one.
      after = hot || query.includes('$organization') ? (/"endCursor":"([^"]*)"/.exec(text)?.[1] ?? null) : null;
    },
  };
}

const KEY_LOG = `query Q($key: ID!, $first: Int, $after: String) { node(id: $key) { ... on ApiKey { ${LOG} } } }`;
const ORGANIZATION_LOG = `query Q($organization: ID!, $first: Int, $after: String) { node(id: $organization) { ... on Organization { ${LOG} } } }`;

export const LOG_QUESTIONS: readonly Question[] = [
  paged("first page of a key's log", KEY_LOG, 50),
  paged("pages of the busiest key's log", KEY_LOG, 50, {}, true),
  paged("pages of the organization's log", ORGANIZATION_LOG, 50),
  paged("pages of 100 of the organization's log", ORGANIZATION_LOG, 100),
];

const KEYS = `query Q($organization: ID!, $first: Int, $after: String, $orderBy: ApiKeyOrder, $filter: ApiKeyFilter) {
  node(id: $organization) { ... on Organization { apiKeys(first: $first, after: $after, orderBy: $orderBy, filter: $filter) {
    edges { node { id name type category masked status createdAt lastUsedAt expiresAt } } pageInfo { endCursor hasNextPage } } } } }`;

export const KEY_LIST_QUESTIONS: readonly Question[] = (['CREATED_AT', 'NAME', 'LAST_USED_AT', 'EXPIRES_AT'] as const).flatMap((field) =>
  (['ASC', 'DESC'] as const).map((direction) =>
    paged(`pages of the keys by ${field} ${direction}`, KEYS, 50, { orderBy: { field, direction } }),
  ),
);
