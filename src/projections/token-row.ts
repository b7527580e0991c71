import { sql, type RawBuilder } from 'kysely';

import type { TokenEvent } from '../domain/event.ts';
import type { Effect } from '../ledger/append.ts';

/** The effects that write an access token's row in the statement that appends. */
export function writeTokenRow(tokenId: string, organizationId: string, actorId: string, events: readonly TokenEvent[]): readonly Effect[] {
  const statements = events.map((event): RawBuilder<unknown> => {
    switch (event.type) {
      case 'AccessTokenIssued':
        return sql`
          INSERT INTO access_tokens (token_hash, id, organization_id, name, member_id, permissions, issued_at, issued_by, expires_at)
          SELECT decode(${event.data.tokenHash}, 'hex'), ${tokenId}::uuid, ${organizationId}::uuid, ${event.data.name}, ${event.data.memberId}::uuid,
                 ${event.data.permissions}::text[], appended.recorded_at, ${actorId}, ${event.data.expiresAt}::timestamptz
          FROM appended`;
      case 'AccessTokenRevoked':
        return sql`
          UPDATE access_tokens SET revoked_at = appended.recorded_at FROM appended
          WHERE id = ${tokenId}::uuid AND organization_id = ${organizationId}::uuid`;
    }
    return event satisfies never;
  });
  return statements.map((statement, index) => ({ name: `token_row_${index}`, statement }));
}
