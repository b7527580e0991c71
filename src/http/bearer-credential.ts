import type { Socket } from 'node:net';

import { accessTokenHash, looksLikeJwt } from '../identity/access-token.ts';
import { bearerToken } from '../identity/authenticate.ts';
import type { RequestHead } from './exchange.ts';

/** What a request's `Authorization: Bearer` header holds, in the form in which the data plane asks for it. */
export type BearerCredential = { readonly kind: 'jwt' } | { readonly kind: 'token'; readonly tokenHash: string };

/**
 * The credential that came last on each connection, since a gateway sends the same with each request and to hash it anew is a fiftieth of a verification's work. It is
 * kept for as long as the connection is. Found by a Map, which compares hashes with a seed of this process before it compares texts: how long it takes tells nothing of a
 * token that somebody else sent on a proxy's connection.
 */
const ofConnection = new WeakMap<Socket, Map<string, BearerCredential>>();

/** Undefined where the header is missing or of another form. Says nothing of whether the credential is any good. */
export function bearerCredential({ headers, socket }: RequestHead): BearerCredential | undefined {
  const { authorization } = headers;
  if (authorization === undefined) return undefined;
  let known = ofConnection.get(socket);
  const before = known?.get(authorization);
  if (before !== undefined) return before;
  const token = bearerToken(authorization);
  if (token === undefined) return undefined;
  const credential: BearerCredential = looksLikeJwt(token) ? { kind: 'jwt' } : { kind: 'token', tokenHash: accessTokenHash(token) };
  if (known === undefined) ofConnection.set(socket, (known = new Map<string, BearerCredential>()));
  known.clear();
  known.set(copyOf(authorization), credential);
  return credential;
}

/** A header's value may be a view of the whole head that it was cut out of, which would be kept with it. */
function copyOf(text: string): string {
  return Buffer.from(text, 'latin1').toString('latin1');
}
