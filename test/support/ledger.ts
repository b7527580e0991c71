import { randomBytes } from 'node:crypto';

import { createAdmission } from '../../src/admission/create-admission.ts';
import { createBalanceCommands } from '../../src/commands/balance-commands.ts';
import { createAlertCommands } from '../../src/commands/alert-commands.ts';
import { createImportCommands } from '../../src/commands/import-commands.ts';
import { createKeyCommands } from '../../src/commands/key-commands.ts';
import { createOrganizationCommands } from '../../src/commands/organization-commands.ts';
import { createProfileCommands } from '../../src/commands/profile-commands.ts';
import { createTokenCommands } from '../../src/commands/token-commands.ts';
import type { Actor } from '../../src/domain/actor.ts';
import { permissionsOf, type Role } from '../../src/domain/permissions.ts';
import { createArgon2Verifiers } from '../../src/identity/argon2-verifier.ts';
import { createPeppers, type Peppers } from '../../src/identity/pepper.ts';
import { createTurns } from '../../src/lib/turns.ts';
import { sealingKeysOf } from '../../src/identity/sealing-keys.ts';
import type { Done, Outcome } from '../../src/ledger/run-command.ts';
import { clientConfig } from '../../src/postgres/client-config.ts';
import { openDatabase } from '../../src/postgres/pool.ts';
import { createAddressPolicy } from '../../src/webhooks/address-policy.ts';
import { createWebhookCommands } from '../../src/webhooks/webhook-commands.ts';
import type { VerifyRequest } from '../../src/admission/admission.ts';
import { createTestDatabase, type TestDatabase } from './database.ts';

/** The product without its network: one server's worth of parts on a database of their own. */
export type TestLedger = Awaited<ReturnType<typeof openTestLedger>>;

/** What a second server shares with the first. */
type Shared = {
  readonly testDatabase: TestDatabase;
  readonly peppers: Peppers;
  readonly organization: { readonly id: string; readonly owner: Actor & { readonly kind: 'member' } };
};

/** Opens a ledger with one organization and its owner. `on`: another server on the database of an earlier one. */
export async function openTestLedger(
  options: {
    readonly on?: Shared;
    readonly peppers?: Peppers;
    readonly keyOperationsPerHour?: number | null;
    readonly webhookAllowPrivate?: readonly string[];
  } = {},
) {
  const testDatabase: TestDatabase = options.on?.testDatabase ?? (await createTestDatabase());
  const errors: Error[] = [];
  const onError = (error: Error): void => void errors.push(error);
  const settings = { connectionString: testDatabase.serverUrl, applicationName: 'keyledger test' };
  const database = openDatabase({ ...settings, maxConnections: 10, onError });
  const peppers = options.peppers ?? options.on?.peppers ?? createPeppers([{ id: 'p1', key: randomBytes(32) }]);
  const argon2 = createArgon2Verifiers({ concurrency: 1, queueLimit: 8, memoryKib: 64 });
  const context = { db: database.kysely, sealingKeys: sealingKeysOf(peppers), turns: createTurns() };
  const keys = createKeyCommands({ ...context, peppers, argon2, keyOperationsPerHour: options.keyOperationsPerHour ?? null });
  const organizations = createOrganizationCommands(context);
  const balances = createBalanceCommands(context);
  const policy = createAddressPolicy(options.webhookAllowPrivate ?? []);
  const webhooks = createWebhookCommands({ ...context, peppers, policy });
  const imports = createImportCommands({ ...context, keyOperationsPerHour: options.keyOperationsPerHour ?? null });
  const tokens = createTokenCommands(context);
  const alerts = createAlertCommands(context);
  const profiles = createProfileCommands(context);
  const admission = createAdmission({
    database,
    connection: clientConfig(settings),
    peppers,
    argon2,
    replaceVerifier: imports.replaceVerifier,
    onError,
  });
  const organization = options.on?.organization ?? (await newOrganization('Acme'));

  async function newOrganization(name: string) {
    const { result } = done(await organizations.create(null, { name }));
    if (result.memberId === null) throw new Error('the new organization has no owner');
    return { id: result.organizationId, owner: member(result.organizationId, result.memberId, 'OWNER') };
  }

  return {
    testDatabase,
    database,
    db: database.kysely,
    peppers,
    argon2,
    keys,
    organizations,
    balances,
    webhooks,
    policy,
    imports,
    tokens,
    alerts,
    profiles,
    admission,
    errors,
    organization,
    owner: organization.owner,
    newOrganization,
    /** Creates a key and answers its id and secret text. */
    async newKey(input: Readonly<Record<string, unknown>> = {}, actor: Actor = organization.owner) {
      const outcome = done(
        await keys.create(actor, {
          organizationId: actor.organizationId,
          type: 'SECRET',
          name: `key ${randomBytes(6).toString('hex')}`,
          ...input,
        }),
      );
      if (outcome.secret === null) throw new Error('the new key has no secret');
      return { keyId: outcome.result.keyId, secret: outcome.secret.reveal(), position: outcome.position };
    },
    verify(secret: string, request: Partial<VerifyRequest> = {}, organizationId = organization.id) {
      return admission.verify({ kind: 'organization', organizationId }, { ...ASKING, key: secret, ...request });
    },
    async close() {
      await admission.close();
      await argon2.close();
      await database.close();
      if (options.on === undefined) await testDatabase.drop();
    },
  };
}

const ASKING: Omit<VerifyRequest, 'key'> = {
  permissions: [],
  cost: 1,
  endpoint: null,
  ip: null,
  origin: null,
  environment: null,
  requestId: null,
};

/** A member as authentication would make it. */
export function member(organizationId: string, memberId: string, role: Role): Actor & { readonly kind: 'member' } {
  return {
    kind: 'member',
    id: `member:${memberId}`,
    memberId,
    organizationId,
    role,
    permissions: new Set(permissionsOf(role)),
    tokenId: null,
    expiresAt: null,
  };
}

/** What an outcome did; fails the test where it was refused. */
export function done<Result>(outcome: Outcome<Result>): Done<Result> {
  if (outcome.kind !== 'done') throw new Error(`refused: ${outcome.code} ${outcome.message}`);
  return outcome;
}
