import type { IncomingMessage } from 'node:http';

import type { VerifyRequest } from '../admission/admission.ts';
import { verifyInputSchema } from '../admission/verify-input.ts';
import { describeFaults } from '../commands/input.ts';
import { bearerToken } from '../identity/authenticate.ts';
import { pathOf } from './router.ts';

export const FORWARD_AUTH_PATH = '/v1/forward-auth';
const MAX_ENDPOINT_LENGTH = 256;
const MAX_ORIGIN_LENGTH = 512;
const TOLD_URI = ['x-forwarded-uri', 'x-original-uri', 'x-original-url'];
const TOLD_METHOD = ['x-forwarded-method', 'x-original-method'];
const SINGLE = ['environment', 'cost', 'dialect'];

/** `nginx`: refusals other than 401 are 403, the only other one that `auth_request` passes on. */
export type Dialect = 'plain' | 'nginx';

export type ForwardAuthQuestion = {
  readonly kind: 'question';
  /** The gateway's own credential; empty where it gave none. */
  readonly token: string;
  readonly dialect: Dialect;
  readonly request: VerifyRequest;
};

/** The gateway asks in a way that can't be answered safely: its operator has to change its configuration. */
export type Misconfigured = { readonly kind: 'misconfigured'; readonly message: string };

const optionsSchema = verifyInputSchema.pick({ permissions: true, cost: true, environment: true });

/**
 * Reads what a gateway forwards. Its options (`permissions`, `environment`, `cost`, `dialect`) stand in the query of the exact path, or as a query after its token (`X-Gateway-Token: <token> cost=2`).
 * Below `/v1/forward-auth/` the query is the end client's, as Envoy appends its target, and holds no options.
 */
export function readForwardAuth(request: IncomingMessage, ip: string | null): ForwardAuthQuestion | Misconfigured {
  const target = request.url ?? '';
  const path = pathOf(target);
  const query = target.slice(path.length + 1);
  const isExact = path === FORWARD_AUTH_PATH;
  const uris = TOLD_URI.flatMap((name) => header(request, name) ?? []);

  // A gateway that passes the end client's query on as its own would let the client choose its cost. (Caddy does, where `uri` has no `?`.)
  const isClients = query !== '' && uris.some((uri) => queryOf(uri) === query);
  if (isExact && isClients)
    return misconfigured("the end client's query arrived as the gateway's own; end the path with '?' (Caddy: 'uri /v1/forward-auth?')");
  if (!isExact && query !== '' && uris.length > 0 && !isClients)
    return misconfigured(`options are read from the query of ${FORWARD_AUTH_PATH} alone; leave out what follows in the path`);

  const [token = '', ...afterToken] = (header(request, 'x-gateway-token') ?? '').split(' ');
  const options = readOptions(new URLSearchParams([...afterToken, isExact ? query : ''].join('&')));
  if (options.kind === 'misconfigured') return options;
  const { dialect, permissions, cost, environment } = options;

  const endpoint = endpointOf(request, isExact ? undefined : path.slice(FORWARD_AUTH_PATH.length), uris);
  const origin = header(request, 'origin')?.slice(0, MAX_ORIGIN_LENGTH) ?? null;
  return {
    kind: 'question',
    token,
    dialect,
    request: { key: presentedKey(request), permissions, cost, environment, endpoint, ip, origin, requestId: null },
  };
}

function readOptions(given: URLSearchParams) {
  for (const name of given.keys()) {
    // Not which: it may be a secret in the wrong place.
    if (name !== 'permissions' && !SINGLE.includes(name))
      return misconfigured(`it gives an option that is not known; there are permissions, ${SINGLE.join(', ')}`);
  }
  const twice = SINGLE.find((name) => given.getAll(name).length > 1);
  if (twice !== undefined) return misconfigured(`'${twice}' is given twice`);
  const dialect = given.get('dialect');
  if (dialect !== null && dialect !== 'nginx') return misconfigured("'dialect': give 'nginx', or leave it out");
  const cost = given.get('cost');
  const parsed = optionsSchema.safeParse({
    // An empty one is refused like any other that is none: a variable that was never set must not mean that no permission is needed.
    permissions: given.getAll('permissions').flatMap((list) => list.split(',')),
    cost: cost === null ? null : /^\d{1,15}$/.test(cost) ? Number(cost) : Number.NaN,
    environment: given.get('environment'),
  });
  if (!parsed.success) return misconfigured(describeFaults(parsed.error).message);
  return { kind: 'options', dialect: dialect ?? ('plain' as const), ...parsed.data } as const;
}

function misconfigured(message: string): Misconfigured {
  return { kind: 'misconfigured', message };
}

/** X-Api-Key before Authorization, which may be meant for the service behind. Empty where no key was presented, which is an invalid one. */
function presentedKey(request: IncomingMessage): string {
  return header(request, 'x-api-key') ?? bearerToken(request.headers.authorization) ?? '';
}

/**
 * `METHOD /path`, or the path alone where the method is not told: the one of a check is often GET whatever the original was. Never the query, where secrets may stand. Null where headers contradict each other, as one of them
 * then is the end client's own.
 */
function endpointOf(request: IncomingMessage, appended: string | undefined, uris: readonly string[]): string | null {
  const path = uris.length > 0 ? agreed(uris.map(pathOfUri)) : appended === undefined ? null : pathOfUri(appended);
  if (path === null) return null;
  const methods = TOLD_METHOD.flatMap((name) => header(request, name) ?? []);
  const method = methods.length > 0 ? agreed(methods) : appended === undefined ? null : (request.method ?? null);
  const isMethod = method !== null && /^[A-Z-]{1,32}$/.test(method);
  return `${isMethod ? `${method} ` : ''}${path}`.slice(0, MAX_ENDPOINT_LENGTH);
}

/** What all that is told says; null where it differs. */
function agreed(told: readonly (string | null)[]): string | null {
  const [first = null] = told;
  return told.every((other) => other === first) ? first : null;
}

/** The path of a URI with or without its origin, with what is not printable ASCII percent-encoded; Node reads headers as Latin-1, so each character is the byte that came. Null where there is none. */
function pathOfUri(uri: string): string | null {
  const path = /^(?:[a-z][a-z0-9+.-]*:\/\/[^/?#]*)?([^?#]*)/i.exec(uri)?.[1] ?? '';
  if (path !== '' && !path.startsWith('/')) return null;
  return path === ''
    ? '/'
    : path.replace(/[^\x21-\x7e]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`);
}

function queryOf(uri: string): string {
  return /^[^?#]*\?([^#]*)/.exec(uri)?.[1] ?? '';
}

/** Undefined where it is empty: an unset variable in a gateway's configuration. */
function header(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[name];
  return value === undefined || value === '' ? undefined : String(value);
}
