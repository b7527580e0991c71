import type { Permission, Role } from './permissions.ts';

/**
 * Who calls, decided once at the edge: a member, a service (a token that belongs to no person), or the product itself (jobs and the command line).
 * An actor belongs to one organization and can reach no other.
 */
export type Actor =
  | {
      readonly kind: 'member';
      /** `member:<uuid>`; what the log records. */
      readonly id: string;
      readonly memberId: string;
      readonly organizationId: string;
      readonly role: Role;
      readonly permissions: ReadonlySet<Permission>;
      /** The access token in use; null for a session of an OIDC provider. */
      readonly tokenId: string | null;
      /** When the credential itself ends; a subscription ends with it. */
      readonly expiresAt: Date | null;
    }
  | {
      readonly kind: 'service';
      /** `service:<token uuid>`. */
      readonly id: string;
      readonly organizationId: string;
      readonly role: null;
      readonly permissions: ReadonlySet<Permission>;
      readonly tokenId: string;
      readonly expiresAt: Date | null;
    };

/** The product's own jobs, as the log names them. */
export const SYSTEM_ACTOR_ID = 'system';

export function allows(actor: Actor, permission: Permission): boolean {
  return actor.permissions.has(permission);
}
