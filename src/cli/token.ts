import { createTokenCommands } from '../commands/token-commands.ts';
import { SYSTEM_ACTOR_ID } from '../domain/actor.ts';
import { PERMISSIONS } from '../domain/permissions.ts';
import { isRefusal } from '../domain/refusals.ts';
import { columns } from './columns.ts';
import { EXIT, parseArguments, UsageError, type CliCommand, type CliIo } from './command.ts';
import { findOrganization, isUuid } from './find-organization.ts';
import { openLedger, type OpenLedger } from './open-ledger.ts';
import { refused } from './refused.ts';

export const tokenCommand: CliCommand = {
  name: 'token',
  summary: 'issue, list and revoke access tokens',
  help: `keyledger token create --name NAME (--permission PERMISSION)… [--organization ID|NAME] [--member ID] [--expires-at MOMENT] [--json]
keyledger token list [--organization ID|NAME] [--json]
keyledger token revoke TOKEN-ID

A token belongs to one organization; --organization may be left out while there is only one. With --member it acts as that member, with all that the
member's role allows or only the permissions given; without, it is a service's and needs permissions. The token itself is printed once.

  --permission PERMISSION   may be given several times, out of:
                            ${Object.keys(PERMISSIONS).join(', ')}
  --expires-at MOMENT       such as 2030-01-31T00:00:00Z; none: until it is revoked`,
  run: async ([action, ...args], io) => {
    switch (action) {
      case 'create':
        return create(args, io);
      case 'list':
        return list(args, io);
      case 'revoke':
        return revoke(args, io);
      case undefined:
        throw new UsageError('Say what to do: token create, token list or token revoke.');
      default:
        throw new UsageError(`token ${JSON.stringify(action)} is unknown; there are create, list and revoke.`);
    }
  },
};

async function create(args: readonly string[], io: CliIo): Promise<number> {
  const { values } = parseArguments(
    args,
    {
      name: { type: 'string' },
      organization: { type: 'string' },
      member: { type: 'string' },
      permission: { type: 'string', multiple: true },
      'expires-at': { type: 'string' },
      json: { type: 'boolean' },
    },
    { min: 0, max: 0 },
  );
  if (values.name === undefined) throw new UsageError('--name NAME is needed: what the token is for.');
  return withLedger(io, async ({ context }) => {
    const organizationId = await findOrganization(context.db, values.organization);
    const outcome = await createTokenCommands(context).create(null, {
      organizationId,
      name: values.name,
      memberId: values.member,
      permissions: values.permission?.flatMap((text) => text.split(',')),
      expiresAt: values['expires-at'],
    });
    if (isRefusal(outcome)) return refused(io, outcome);
    const accessToken = outcome.secret?.reveal() ?? ''; // the one time that it is shown
    if (values.json === true)
      io.out(JSON.stringify({ tokenId: outcome.result.tokenId, organizationId, accessToken, position: String(outcome.position) }));
    else {
      io.out(`Token id       ${outcome.result.tokenId}`);
      io.out(`Access token   ${accessToken}`);
      io.out('The token is shown only now.');
    }
    return EXIT.done;
  });
}

async function list(args: readonly string[], io: CliIo): Promise<number> {
  const { values } = parseArguments(args, { organization: { type: 'string' }, json: { type: 'boolean' } }, { min: 0, max: 0 });
  return withLedger(io, async ({ context }) => {
    const organizationId = await findOrganization(context.db, values.organization);
    const tokens = await context.db
      .selectFrom('access_tokens')
      .select(['id', 'name', 'member_id', 'permissions', 'issued_at', 'issued_by', 'expires_at', 'revoked_at'])
      .where('organization_id', '=', organizationId)
      .orderBy('issued_at')
      .execute();
    if (values.json === true) {
      io.out(JSON.stringify(tokens));
      return EXIT.done;
    }
    const now = new Date();
    const rows = tokens.map((token) => [
      token.id,
      statusOf(token, now),
      token.name,
      token.member_id === null ? 'service' : `member ${token.member_id}`,
      token.permissions === null ? "the role's" : token.permissions.join(','),
      token.expires_at?.toISOString() ?? 'never',
    ]);
    for (const line of columns([['ID', 'STATUS', 'NAME', 'ACTS AS', 'PERMISSIONS', 'EXPIRES'], ...rows])) io.out(line);
    return EXIT.done;
  });
}

function statusOf(token: { readonly expires_at: Date | null; readonly revoked_at: Date | null }, now: Date): string {
  if (token.revoked_at !== null) return 'revoked';
  return token.expires_at !== null && token.expires_at <= now ? 'expired' : 'active';
}

async function revoke(args: readonly string[], io: CliIo): Promise<number> {
  const { positionals } = parseArguments(args, {}, { min: 1, max: 1 });
  const [id = ''] = positionals;
  if (!isUuid(id)) throw new UsageError(`${JSON.stringify(id)} is no token id; keyledger token list shows them.`);
  return withLedger(io, async ({ context }) => {
    const token = await context.db.selectFrom('access_tokens').select('organization_id').where('id', '=', id).executeTakeFirst();
    if (token === undefined) {
      io.err(`There is no access token ${id}; keyledger token list shows them.`);
      return EXIT.failed;
    }
    const outcome = await createTokenCommands(context).revoke({ organizationId: token.organization_id, id: SYSTEM_ACTOR_ID }, { id });
    if (isRefusal(outcome)) return refused(io, outcome);
    io.out(`Revoked at position ${outcome.position}. Nobody gets in with it any more.`);
    return EXIT.done;
  });
}

async function withLedger(io: CliIo, work: (ledger: OpenLedger) => Promise<number>): Promise<number> {
  const ledger = await openLedger(io, { create: false });
  try {
    return await work(ledger);
  } finally {
    await ledger.close();
  }
}
