/** The four roles of a member, the strongest first. AUDITOR reads everything and changes nothing. */
export const ROLES = ['OWNER', 'ADMIN', 'MEMBER', 'AUDITOR'] as const;
export type Role = (typeof ROLES)[number];

/**
 * What a caller may do, in one list; the table of roles below and docs/permissions.md derive from it.
 * The text is the reader's explanation.
 */
export const PERMISSIONS = {
  'organization:read': 'see the organization, its plan and settings',
  'organization:write': 'rename the organization, change its settings, and whether it is a team',
  'organizations:create': 'create further organizations (no role carries it: it is given to a token by name)',
  'plans:write': 'change the plan of any organization (no role carries it: it is given to a token by name)',
  'balance:write':
    'give any organization a prepaid balance, add funds, and take it away again (no role carries it: it is given to a token by name)',
  'members:read': 'list the members and their roles',
  'members:write': 'add and remove members and change their roles',
  'membership:own': 'agree to join another organization, and leave this one',
  'tokens:read': 'list access tokens, without their secrets',
  'tokens:write': 'issue and revoke access tokens',
  'keys:read': 'see keys, masked',
  'keys:write': 'create, change, regenerate, deactivate, activate and delete team keys',
  'keys:write:personal': 'the same for the personal keys of the caller alone',
  'profiles:write': 'create, change and delete profiles',
  'keys:verify': 'ask whether a key may pass',
  'usage:read': 'see usage, statistics and the request log',
  'usage:write': 'report usage',
  'alerts:read': 'see alerts and their rules, and follow them live',
  'alerts:write': 'acknowledge alerts (with alerts:read) and change their rules',
  'webhooks:read': 'see webhook endpoints and what became of their deliveries',
  'webhooks:write': 'create, change and delete webhook endpoints, rotate their secrets, send again',
  'log:read': 'read, follow and export the event log, and see the past states that it proves',
} as const;
export type Permission = keyof typeof PERMISSIONS;

export const ALL_PERMISSIONS = Object.keys(PERMISSIONS) as readonly Permission[];

export function isPermission(text: string): text is Permission {
  return Object.hasOwn(PERMISSIONS, text);
}

/** What concerns more than one organization is the operator's, and belongs to no role. */
const OPERATOR: readonly Permission[] = ['organizations:create', 'plans:write', 'balance:write'];

export function isOperatorPermission(permission: Permission): boolean {
  return OPERATOR.includes(permission);
}

const READ_EVERYTHING: readonly Permission[] = [
  'organization:read',
  'members:read',
  'tokens:read',
  'keys:read',
  'usage:read',
  'alerts:read',
  'webhooks:read',
  'log:read',
];

const ROLE_PERMISSIONS: Readonly<Record<Role, readonly Permission[]>> = {
  OWNER: ALL_PERMISSIONS.filter((permission) => !isOperatorPermission(permission)),
  ADMIN: ALL_PERMISSIONS.filter((permission) => !isOperatorPermission(permission) && permission !== 'organization:write'),
  MEMBER: ['organization:read', 'members:read', 'keys:read', 'keys:write:personal', 'membership:own', 'usage:read', 'alerts:read'],
  AUDITOR: READ_EVERYTHING,
};

/** The permissions that a role carries. */
export function permissionsOf(role: Role): readonly Permission[] {
  return ROLE_PERMISSIONS[role];
}
