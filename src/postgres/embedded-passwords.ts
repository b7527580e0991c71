import { randomBytes } from 'node:crypto';
import { readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { Secret } from '../lib/secret.ts';
import { isErrno } from './process-identity.ts';

/** The logins of the embedded cluster: its superuser, the owner of the tables, and the server. */
export type EmbeddedPasswords = { readonly superuser: Secret; readonly owner: Secret; readonly app: Secret };

const FILE = 'postgres-passwords.json';

/** Reads the passwords beside the cluster, or makes them (256 random bits each, file 0600). */
export async function embeddedPasswords(dataDir: string, clusterExists: boolean): Promise<EmbeddedPasswords> {
  const path = join(dataDir, FILE);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    if (!isErrno(cause, 'ENOENT')) throw new Error(`${path} can't be read. Start keyledger as the user who owns ${dataDir}.`, { cause });
    if (clusterExists) {
      throw new Error(
        `${path} is missing, so the Postgres in ${dataDir} can't be logged in to. Put the file back from a backup of the data directory.`,
        { cause },
      );
    }
    const random = () => randomBytes(32).toString('base64url');
    const made = { superuser: random(), owner: random(), app: random() };
    await writeFile(`${path}.new`, `${JSON.stringify(made, null, 2)}\n`, { mode: 0o600, flush: true });
    await rename(`${path}.new`, path);
    return asSecrets(made);
  }
  let stored: unknown;
  try {
    stored = JSON.parse(text);
  } catch {
    stored = undefined;
  }
  if (!isStored(stored)) throw new Error(`${path} is damaged. Put it back from a backup of the data directory.`);
  return asSecrets(stored);
}

type Stored = { superuser: string; owner: string; app: string };

function asSecrets(stored: Stored): EmbeddedPasswords {
  return { superuser: new Secret(stored.superuser), owner: new Secret(stored.owner), app: new Secret(stored.app) };
}

function isStored(value: unknown): value is Stored {
  return (
    typeof value === 'object' &&
    value !== null &&
    'superuser' in value &&
    'owner' in value &&
    'app' in value &&
    [value.superuser, value.owner, value.app].every((password) => typeof password === 'string' && password.length >= 32)
  );
}
