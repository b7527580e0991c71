import type { Bench } from '../bench.ts';
import type { LedgerDatabase } from '../database/ledger-database.ts';
import { postRequest, verifyBody } from '../load/http-request.ts';
import type { Slot } from '../measure.ts';
import { startBare } from '../subjects/bare.ts';
import type { Subject } from '../subjects/keyledger-server.ts';

const VALID = '"valid":true';

export function bearer(token: string): Readonly<Record<string, string>> {
  return { authorization: `Bearer ${token}` };
}

/** `POST /v1/verify` over some of a ledger's keys, to one server of it or more. */
export function keyledgerSlot(ledger: LedgerDatabase, subjects: readonly Subject[], keys = ledger.keys): Slot {
  const requests = keys.map(({ secret }) => postRequest('/v1/verify', verifyBody(secret), bearer(ledger.gatewayToken)));
  return { name: 'keyledger', subjects, requests: [requests], expect: VALID, ledger };
}

/** The same requests to the bare server, which answers what the ledger's server answers the first of them. */
export async function bareSlot(
  bench: Bench,
  ledger: LedgerDatabase,
  server: Subject,
  keys = ledger.keys,
): Promise<Slot & { stop(): Promise<void> }> {
  const [key] = keys;
  const answer = await fetch(`http://127.0.0.1:${server.port}/v1/verify`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...bearer(ledger.gatewayToken) },
    body: verifyBody(key?.secret ?? ''),
  });
  const text = await answer.text();
  if (!text.includes(VALID)) throw new Error(`the first verification was answered ${answer.status} ${text}`);
  const bare = bench.keep(await startBare(text, bench.signal));
  return { ...keyledgerSlot(ledger, [bare], keys), name: 'bare node:http', ledger: undefined, stop: () => bare.stop() };
}

/** The same body with better-auth's keys. */
export async function betterAuthSlot(bench: Bench): Promise<Slot> {
  const betterAuth = await bench.betterAuth();
  const requests = betterAuth.keys.map((key) => postRequest('/verify', verifyBody(key)));
  return { name: 'better-auth', subjects: [betterAuth], requests: [requests], expect: VALID };
}
