import { setTimeout as sleep } from 'node:timers/promises';
import { sql, type Kysely } from 'kysely';

import type { VerifyAnswer } from '../../src/admission/admission.ts';
import type { Tables } from '../../src/postgres/tables.ts';

/**
 * How limits are often kept, and must not be: what is left is read, and the request written when that has been looked at. Right for one caller after
 * another, wrong for two at once. Writes to the same log as the product, so that the same checks can be held against it.
 */
export async function verifyReadThenWrite(
  db: Kysely<Tables>,
  request: { readonly key: number; readonly organization: number; readonly cost: number; readonly daily: number | null },
): Promise<Pick<VerifyAnswer, 'position' | 'code' | 'refusedBy' | 'requestId'>> {
  const { rows: used } = await sql<{ credits: bigint }>`
    SELECT coalesce(sum(credits), 0)::bigint AS credits FROM usage_events WHERE key = ${request.key} AND recorded_at > ledger_now() - interval '1 day'`.execute(
    db,
  );
  await sleep(2);
  const fits = request.daily === null || Number(used[0]?.credits ?? 0n) + request.cost <= request.daily;
  const { rows } = await sql<{ position: bigint }>`
    INSERT INTO usage_events (position, recorded_at, organization, key, credits, kind, code)
    SELECT first_position, recorded_at, ${request.organization}, ${request.key}, ${fits ? request.cost : 0}, 1, ${fits ? 0 : 10} FROM reserve_positions()
    RETURNING position`.execute(db);
  const position = rows[0]?.position ?? null;
  if (fits) return { position, code: 'VALID', refusedBy: null, requestId: `req_${position}` };
  return { position, code: 'QUOTA_EXCEEDED', refusedBy: { quota: 'daily', retryAfterSeconds: null }, requestId: `req_${position}` };
}
