import type pg from 'pg';

import { SERVER_ROLE } from './client-config.ts';

const ATTEMPTS = 5;
/** duplicate_object, unique_violation, and `tuple concurrently updated` (internal_error): two databases of one cluster are migrated at once. */
const CONCURRENT = ['42710', '23505', 'XX000'];
const INSUFFICIENT_PRIVILEGE = '42501';

/**
 * Makes sure that the group role `keyledger_server` exists (roles belong to the cluster, not to the database) and that this login may work as it.
 * Where the login may not do that, the error holds the SQL for somebody who may.
 */
export async function ensureServerRole(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ login: string }>('SELECT session_user::text AS login');
  const login = client.escapeIdentifier(rows[0]?.login ?? '');
  for (let attempt = 1; ; attempt++) {
    try {
      if (!(await roleExists(client))) await client.query(`CREATE ROLE ${SERVER_ROLE} NOLOGIN`);
      if (!(await mayWorkAsServer(client))) await client.query(`GRANT ${SERVER_ROLE} TO ${login}`);
      return;
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? error.code : undefined;
      if (code === INSUFFICIENT_PRIVILEGE) {
        const create = (await roleExists(client)) ? '' : `CREATE ROLE ${SERVER_ROLE} NOLOGIN; `;
        throw new Error(
          `The login ${login} may not set up the role ${SERVER_ROLE}. Have an administrator of the cluster run: ${create}GRANT ${SERVER_ROLE} TO ${login};`,
          { cause: error },
        );
      }
      if (attempt === ATTEMPTS || typeof code !== 'string' || !CONCURRENT.includes(code)) throw error;
    }
  }
}

async function roleExists(client: pg.Client): Promise<boolean> {
  return (await client.query('SELECT FROM pg_roles WHERE rolname = $1', [SERVER_ROLE])).rowCount === 1;
}

async function mayWorkAsServer(client: pg.Client): Promise<boolean> {
  const { rows } = await client.query<{ may: boolean }>("SELECT pg_has_role(session_user, $1, 'SET') AS may", [SERVER_ROLE]);
  return rows[0]?.may === true;
}
