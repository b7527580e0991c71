import { REQUEST_REFUSALS, VERIFICATION_REFUSALS } from '../domain/refusals.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import { FORWARD_AUTH_PATH } from './forward-auth-question.ts';
import { JSON_TYPE } from './media-type.ts';
import { LIMIT_HEADERS } from './openapi-limit-headers.ts';

type Json = { readonly [name: string]: JsonValue };

/** How a forwarded request carries its two credentials. */
export const FORWARD_AUTH_SCHEMES: Json = {
  gatewayToken: {
    type: 'apiKey',
    in: 'header',
    name: 'X-Gateway-Token',
    description: "The gateway's access token, with the permission `keys:verify`.",
  },
  endClientKey: {
    type: 'apiKey',
    in: 'header',
    name: 'X-Api-Key',
    description: "The end client's key; `Authorization: Bearer` is understood as well.",
  },
};

/** `/v1/forward-auth` and what is below it. OpenAPI has no word for "any method", so GET stands for all. */
export function forwardAuthPaths(): Json {
  return {
    [FORWARD_AUTH_PATH]: { get: operation('forwardAuth', [DESCRIPTION, OPTIONS_HERE].join('\n\n'), OPTIONS) },
    [`${FORWARD_AUTH_PATH}/{target}`]: {
      get: operation('forwardAuthBelow', [DESCRIPTION, OPTIONS_BELOW].join('\n\n'), [
        {
          name: 'target',
          in: 'path',
          required: true,
          description: "The end client's target, slashes included, where the gateway appends it.",
          schema: { type: 'string' },
        },
      ]),
    },
  };
}

const DESCRIPTION =
  'For reverse proxies that ask about each request before they pass it on: nginx `auth_request`, Caddy `forward_auth`, Traefik ForwardAuth, Envoy `ext_authz`. Takes any method and ignores the body; the original method, URI and address come in `X-Forwarded-*` or `X-Original-*`. A gateway that may not ask, or asks wrongly, gets 502.';
const OPTIONS_HERE = 'Options stand in the query, or as a query after the token: `X-Gateway-Token: <token> permissions=read:x&cost=2`.';
const OPTIONS_BELOW =
  "The query is the end client's and holds no options; they stand as a query after the token: `X-Gateway-Token: <token> permissions=read:x&cost=2`.";

const OPTIONS: JsonValue = [
  {
    name: 'permissions',
    in: 'query',
    description: 'All of them are needed; separated by commas, or repeated.',
    schema: { type: 'string' },
  },
  { name: 'environment', in: 'query', description: 'Refuses keys of the other environment.', schema: { enum: ['live', 'test'] } },
  {
    name: 'cost',
    in: 'query',
    description: 'Units to consume; 0 asks without consuming.',
    schema: { type: 'integer', minimum: 0, default: 1 },
  },
  {
    name: 'dialect',
    in: 'query',
    description: '`nginx`: refusals other than 401 are 403, and X-Auth-Status has the real status.',
    schema: { const: 'nginx' },
  },
];

const text: Json = { schema: { type: 'string' } };
const integer: Json = { schema: { type: 'integer' } };

const ERROR_HEADERS: Json = {
  'X-Auth-Code': { description: 'The code of the refusal.', schema: { type: 'string' } },
  'X-Auth-Status': { description: 'The status that the end client should see.', schema: { type: 'integer' } },
  'X-Auth-Message': text,
};

function operation(operationId: string, description: string, parameters: JsonValue): Json {
  const statuses = [...new Set(Object.values(VERIFICATION_REFUSALS).map(({ httpStatus }) => httpStatus))].toSorted((a, b) => a - b);
  return {
    operationId,
    summary: 'May this forwarded request pass?',
    description,
    security: [{ gatewayToken: [], endClientKey: [] }],
    parameters,
    responses: {
      '200': { description: 'It may.', headers: { ...KEY_HEADERS, ...LIMIT_HEADERS } },
      ...Object.fromEntries(statuses.map((status) => [String(status), refusalResponse(status)])),
      '500': error('Something went wrong here.', REQUEST_REFUSALS.INTERNAL_SERVER_ERROR.message),
      '502': error('The gateway may not ask, or asks wrongly.', 'Gateway refused: its X-Gateway-Token is unknown, expired or revoked.'),
      '503': error('The question could not be answered.', REQUEST_REFUSALS.SERVICE_UNAVAILABLE.message, { 'Retry-After': integer }),
    },
  };
}

const KEY_HEADERS: Json = {
  'X-Key-Id': text,
  'X-Key-Name': { description: 'Percent-encoded where it is not printable ASCII.', schema: { type: 'string' } },
  'X-Key-Organization': text,
  'X-Key-Permissions': { description: 'Separated by commas.', schema: { type: 'string' } },
  'X-Key-Profile': { description: 'Percent-encoded like the name; empty without one.', schema: { type: 'string' } },
  'X-Key-Outdated': {
    description: '`true` where the secret was regenerated and this one works only until its overlap ends; otherwise empty.',
    schema: { type: 'string' },
  },
  'X-Key-Request-Id': { description: 'The `requestId` under which POST /v1/usage settles this request.', schema: { type: 'string' } },
};

function refusalResponse(status: number): Json {
  const refusals = Object.entries(VERIFICATION_REFUSALS).filter(([, { httpStatus }]) => httpStatus === status);
  const codes = refusals.map(([code]) => `\`${code}\``).join(', ');
  const more: Json = status === 401 ? { 'WWW-Authenticate': text } : status === 429 ? { ...LIMIT_HEADERS, 'Retry-After': integer } : {};
  return error(`The end client's request is refused: ${codes}.`, refusals[0]?.[1].message ?? '', more);
}

function error(description: string, message: string, headers: Json = {}): Json {
  const schema: Json = {
    type: 'object',
    required: ['error'],
    properties: { error: { type: 'string', description: 'for the end client' } },
    additionalProperties: false,
  };
  return {
    description,
    headers: { ...ERROR_HEADERS, ...headers },
    content: { [JSON_TYPE]: { schema, examples: { example: { value: { error: message } } } } },
  };
}
