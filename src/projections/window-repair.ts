import { sql } from 'kysely';

import type { Database } from '../postgres/pool.ts';

export type WindowRepairProgress = { readonly compared: number; readonly keys: number };
export type WindowRepairOutcome = WindowRepairProgress & { readonly repaired: number; readonly interrupted: boolean };

export type WindowRepairOptions = { readonly onProgress: (progress: WindowRepairProgress) => void; readonly signal?: AbortSignal };

/**
 * Makes every key's windows equal to its usage events, while verifications go on: each key is locked for as long as its own events are counted.
 * Stopped between two keys it has done no harm, and begun again it finds done what was done.
 */
export async function repairWindows({ kysely: db }: Database, { onProgress, signal }: WindowRepairOptions): Promise<WindowRepairOutcome> {
  const { count } = await db
    .selectFrom('api_keys')
    .select((select) => select.fn.countAll<bigint>().as('count'))
    .executeTakeFirstOrThrow();
  const keys = Number(count);
  let compared = 0;
  let repaired = 0;
  for (let after = 0; ;) {
    const page = await db.selectFrom('api_keys').select('number').where('number', '>', after).orderBy('number').limit(100).execute();
    if (page.length === 0) return { compared, keys, repaired, interrupted: false };
    for (const { number } of page) {
      if (signal?.aborted === true) return { compared, keys, repaired, interrupted: true };
      const { rows } = await sql<{ mended: boolean }>`SELECT repair_windows(${number}::integer) AS mended`.execute(db);
      if (rows[0]?.mended === true) repaired++;
      compared++;
      after = number;
    }
    onProgress({ compared, keys });
  }
}
