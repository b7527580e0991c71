import { sealingKey, type SealingKeys } from '../ledger/idempotency.ts';
import type { Peppers } from './pepper.ts';

/** The keys that seal a replayable secret, derived from the peppers: whoever rotates those rotates these. */
export function sealingKeysOf(peppers: Peppers): SealingKeys {
  return {
    current: sealingKey(peppers.current.id, peppers.current.key),
    get: (id) => {
      const pepper = peppers.get(id);
      return pepper === undefined ? undefined : sealingKey(pepper.id, pepper.key);
    },
  };
}
