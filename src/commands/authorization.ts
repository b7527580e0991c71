import { allows, type Actor } from '../domain/actor.ts';
import type { Permission } from '../domain/permissions.ts';

/** The caller is known but may not do this; GraphQL answers FORBIDDEN, HTTP 403. */
export class ForbiddenError extends Error {
  readonly permission: Permission;
  constructor(permission: Permission) {
    super(`This needs the permission '${permission}', which your role or token does not carry.`);
    this.name = 'ForbiddenError';
    this.permission = permission;
  }
}

export function requirePermission(actor: Actor, permission: Permission): void {
  if (!allows(actor, permission)) throw new ForbiddenError(permission);
}

/** A key may be written by who manages the organization's keys, and a personal key also by its owner. */
export function requireKeyWrite(actor: Actor, ownerId: string | null): void {
  if (allows(actor, 'keys:write')) return;
  if (ownerId !== null && actor.kind === 'member' && actor.memberId === ownerId) requirePermission(actor, 'keys:write:personal');
  else throw new ForbiddenError('keys:write');
}
