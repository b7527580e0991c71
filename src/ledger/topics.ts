import type { LedgerEntry, LogFilter } from './read.ts';

const EVERYTHING = '*';

/** Under which topics the entries of a filter are found: each entry that it admits has one of them. The narrowest that it can be found by. */
export function topicsOfFilter({ organizationId, types, streams }: LogFilter): readonly string[] {
  if (streams !== undefined) return [...new Set(streams)].map((stream) => `s/${stream}`);
  if (types === undefined) return [organizationId === undefined ? EVERYTHING : `o/${organizationId}`];
  return [...new Set(types)].map((type) => (organizationId === undefined ? `t/${type}` : `o/${organizationId}/${type}`));
}

/** The topics that an entry has. */
export function topicsOfEntry({ organizationId, stream, type }: LedgerEntry): readonly string[] {
  return [`s/${stream}`, `o/${organizationId}/${type}`, `t/${type}`, `o/${organizationId}`, EVERYTHING];
}
