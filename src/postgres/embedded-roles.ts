import pg from 'pg';

import { SERVER_ROLE } from './client-config.ts';
import type { EmbeddedPasswords } from './embedded-passwords.ts';

export const EMBEDDED = { database: 'keyledger', superuser: 'postgres', owner: 'keyledger_owner', app: 'keyledger_app' } as const;

/**
 * Makes the logins and the database, or leaves them as they are: the owner (no superuser, may make roles) migrates, the app only serves and
 * is nothing but a member of the group role. Runs at each start, so an interrupted first start mends itself.
 */
export async function ensureEmbeddedRoles(port: number, passwords: EmbeddedPasswords): Promise<void> {
  const client = new pg.Client({
    host: '127.0.0.1',
    port,
    user: EMBEDDED.superuser,
    password: passwords.superuser.reveal(),
    database: 'postgres',
    connectionTimeoutMillis: 10_000,
    query_timeout: 30_000,
  });
  client.on('error', () => undefined);
  await client.connect();
  try {
    const roles = new Set((await client.query<{ rolname: string }>('SELECT rolname FROM pg_roles')).rows.map((row) => row.rolname));
    if (!roles.has(SERVER_ROLE)) await client.query(`CREATE ROLE ${SERVER_ROLE} NOLOGIN`);
    if (!roles.has(EMBEDDED.owner)) await client.query(`CREATE ROLE ${EMBEDDED.owner} LOGIN CREATEROLE`);
    if (!roles.has(EMBEDDED.app)) await client.query(`CREATE ROLE ${EMBEDDED.app} LOGIN`);
    for (const [role, password] of [
      [EMBEDDED.owner, passwords.owner],
      [EMBEDDED.app, passwords.app],
    ] as const) {
      await client.query(`ALTER ROLE ${role} PASSWORD ${client.escapeLiteral(password.reveal())}`);
    }
    await client.query(`GRANT ${SERVER_ROLE} TO ${EMBEDDED.owner} WITH ADMIN TRUE`);
    await client.query(`GRANT ${SERVER_ROLE} TO ${EMBEDDED.app}`);
    const { rowCount } = await client.query('SELECT FROM pg_database WHERE datname = $1', [EMBEDDED.database]);
    if (rowCount === 0) await client.query(`CREATE DATABASE ${EMBEDDED.database} OWNER ${EMBEDDED.owner}`);
    await client.query(`REVOKE ALL ON DATABASE ${EMBEDDED.database} FROM PUBLIC`);
    await client.query(`GRANT CONNECT ON DATABASE ${EMBEDDED.database} TO ${SERVER_ROLE}`);
  } finally {
    await client.end();
  }
}
