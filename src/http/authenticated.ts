import type { Actor } from '../domain/actor.ts';
import type { Authenticate } from '../identity/authenticate.ts';
import { refuse } from './answer.ts';
import type { Exchange, RequestHead } from './exchange.ts';

/** Who calls; null where nobody does or it can't be told, and then the exchange was answered. */
export async function authenticated(exchange: Exchange<RequestHead>, authenticate: Authenticate): Promise<Actor | null> {
  const found = await authenticate(exchange.request.headers.authorization);
  switch (found.kind) {
    case 'actor':
      return found.actor;
    case 'anonymous':
      refuse(exchange, 'UNAUTHENTICATED');
      return null;
    case 'refused':
      refuse(exchange, 'UNAUTHENTICATED', found.message);
      return null;
    case 'unavailable':
      refuse(exchange, 'SERVICE_UNAVAILABLE', found.message);
      return null;
    default:
      return found satisfies never;
  }
}
