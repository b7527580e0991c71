import { foundOrganization } from '../commands/found-organization.ts';
import { isRefusal } from '../domain/refusals.ts';
import { EXIT, parseArguments, UsageError, type CliCommand } from './command.ts';
import { openLedger } from './open-ledger.ts';
import { refused } from './refused.ts';

export const bootstrapCommand: CliCommand = {
  name: 'bootstrap',
  summary: "make an organization with an owner, and print the owner's access token",
  help: `keyledger bootstrap --organization NAME [--owner-name NAME] [--owner-email ADDRESS] [--json]

Makes the first organization, or a further one, with one owner. The owner's access token is printed once and can't be shown again. BOOTSTRAP_TOKEN
fixes the token of the first organization's owner.

  --organization NAME     what the organization is called
  --owner-name NAME       the owner's name, kept outside the log so that it can be erased
  --owner-email ADDRESS   the owner's address, likewise
  --json                  answer as one JSON object`,
  run: async (args, io) => {
    const { values } = parseArguments(
      args,
      { organization: { type: 'string' }, 'owner-name': { type: 'string' }, 'owner-email': { type: 'string' }, json: { type: 'boolean' } },
      { min: 0, max: 0 },
    );
    if (values.organization === undefined) throw new UsageError('--organization NAME is needed.');
    const ledger = await openLedger(io, { create: true });
    try {
      const { context, config } = ledger;
      const isFirst = (await context.db.selectFrom('organizations').select('id').limit(1).executeTakeFirst()) === undefined;
      const input = { name: values.organization, ownerName: values['owner-name'], ownerEmail: values['owner-email'] };
      const made = await foundOrganization(context, null, input, isFirst ? config.bootstrapToken : undefined);
      if (isRefusal(made)) return refused(io, made);
      const accessToken = made.secret?.reveal() ?? ''; // the one time that it is shown
      if (values.json === true) {
        io.out(JSON.stringify({ ...made.result, accessToken, position: String(made.position) }));
      } else {
        io.out(`Organization   ${made.result.organizationId}  ${values.organization}`);
        io.out(`Owner          ${made.result.memberId}`);
        io.out(`Access token   ${accessToken}`);
        io.out('The token is shown only now.');
      }
      return EXIT.done;
    } finally {
      await ledger.close();
    }
  },
};
