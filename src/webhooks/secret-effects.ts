import { sql, type RawBuilder } from 'kysely';

import type { WebhookEvent } from '../domain/event.ts';
import type { Effect } from '../ledger/append.ts';
import type { SealedSecret } from './webhook-secret.ts';

/** What an event does to an endpoint's secrets and health, in the statement that appends it. */
export function secretEffects(endpointId: string, event: WebhookEvent, sealed: SealedSecret | undefined): readonly Effect[] {
  switch (event.type) {
    case 'WebhookEndpointCreated':
      return [
        { name: 'new_health', statement: sql`INSERT INTO webhook_health (endpoint_id) SELECT ${endpointId}::uuid FROM appended` },
        newSecret(endpointId, sealed, sql`appended`),
      ];
    case 'WebhookEndpointSecretRotated': {
      // Of three secrets the oldest goes: a message carries two signatures at most. The insert reads from the statement that retires, so that it runs after it.
      const expires = event.data.overlapUntil;
      return [
        {
          name: 'erased_secrets',
          statement: sql`DELETE FROM webhook_secrets USING appended WHERE endpoint_id = ${endpointId}::uuid AND expires_at IS NOT NULL`,
        },
        {
          name: 'retired_secret',
          statement: sql`
            UPDATE webhook_secrets SET expires_at = coalesce(${expires}::timestamptz, appended.recorded_at) FROM appended
            WHERE endpoint_id = ${endpointId}::uuid AND expires_at IS NULL RETURNING 1`,
        },
        newSecret(endpointId, sealed, sql`appended, (SELECT count(*) FROM retired_secret) AS retired`),
      ];
    }
    case 'WebhookEndpointDeleted':
      return [
        { name: 'erased_secrets', statement: sql`DELETE FROM webhook_secrets USING appended WHERE endpoint_id = ${endpointId}::uuid` },
        {
          name: 'erased_answers',
          statement: sql`UPDATE idempotency SET sealed_secret = NULL FROM appended WHERE subject_id = ${endpointId}::uuid AND sealed_secret IS NOT NULL`,
        },
      ];
    case 'WebhookEndpointUpdated':
      // Whoever mends an endpoint and switches it on again gets the same patience as with a new one.
      return event.data.active === true
        ? [
            {
              name: 'new_health',
              statement: sql`
                UPDATE webhook_health SET failing_since = NULL, troubled = false, rests_until = NULL FROM appended WHERE endpoint_id = ${endpointId}::uuid`,
            },
          ]
        : [];
    case 'WebhookEndpointDisabled':
    case 'WebhookTestRequested':
    case 'WebhookRedeliveryRequested':
      return [];
  }
  return event satisfies never;
}

function newSecret(endpointId: string, sealed: SealedSecret | undefined, from: RawBuilder<unknown>): Effect {
  if (sealed === undefined) throw new Error('A new signing secret was decided on without one having been made.');
  const statement = sql`
    INSERT INTO webhook_secrets (endpoint_id, fingerprint, pepper_id, sealed, created_at)
    SELECT ${endpointId}::uuid, ${sealed.fingerprint}, ${sealed.pepperId}, ${sealed.sealed}::bytea, appended.recorded_at FROM ${from}`;
  return { name: 'new_secret', statement };
}
