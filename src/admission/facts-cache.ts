import type { Kysely } from 'kysely';

import type { Tables } from '../postgres/tables.ts';
import type { Asked } from './asked.ts';
import type { Facts, KeyRules, OrganizationFacts, TokenFacts, VerifierFacts } from './facts.ts';
import { loadFacts, type LoadedFacts } from './load-facts.ts';

const CACHED_TOKENS = 10_000;
const CACHED_ORGANIZATIONS = 10_000;

/** Up to where the facts of a batch are known to hold: what the statement that consumes compares the log with. */
export type Known = { readonly seen: bigint; readonly revision: bigint };

/** What a batch's statement found: `changed` holds "<organization> <stream>" of what is newer, null where that is too much to tell. */
export type Found = { readonly seen: bigint; readonly revision: bigint; readonly changed: readonly string[] | null };

/**
 * What decides about requests but what they use up, in memory. None of it is ever trusted: the statement that consumes is told up to which event of the log it was
 * read, and does nothing where a newer one concerns the batch. That something does not exist is not kept, so that a new key is known at once.
 */
export type FactsCache = {
  /** From memory; undefined where anything is not there. */
  find(asked: Asked): Facts | undefined;
  /** From the database, in a snapshot that is newer than the call. Calls that come while one is under way share the next. */
  read(asked: Asked): Promise<Facts>;
  /** The same object for as long as what `find` answered holds. */
  known(): Known;
  /** Forgets what has changed. */
  forget(found: Found): void;
  /** Forgets a verifier that was written anew without an event. */
  forgetSecret(lookupId: string): void;
};

type Entry = { readonly rules: KeyRules; readonly position: bigint; readonly verifiers: Set<string>; readonly hashes: Set<string> };

export function createFactsCache(
  db: Kysely<Tables>,
  { capacity, maxRead }: { readonly capacity: number; readonly maxRead: number },
): FactsCache {
  const tokens = new Map<string, TokenFacts>();
  const organizations = new Map<string, OrganizationFacts>();
  const verifiers = new Map<string, VerifierFacts>();
  const imported = new Map<string, readonly VerifierFacts[]>();
  /** By the key's id, in the order in which they came. */
  const entries = new Map<string, Entry>();
  let known: Known = { seen: -1n, revision: -1n };

  type Reading = { readonly asked: Asked; readonly resolve: (facts: Facts) => void; readonly reject: (error: unknown) => void };
  let waiting: Reading[] = [];
  let reading = false;

  async function readWaiting(): Promise<void> {
    reading = true;
    while (waiting.length > 0) {
      const readers = waiting.slice(0, maxRead);
      waiting = waiting.slice(maxRead);
      try {
        const loaded = await loadFacts(
          db,
          readers.map(({ asked }) => asked),
        );
        keep(loaded);
        for (const { asked, resolve } of readers) resolve(factsOf(asked, loaded));
      } catch (error) {
        for (const { reject } of readers) reject(error);
      }
    }
    reading = false;
  }

  function keep(loaded: LoadedFacts): void {
    if (loaded.revision > known.revision) {
      forgetAll();
      known = { seen: loaded.position, revision: loaded.revision };
    }
    // A snapshot from before what is known to have changed could bring that back.
    if (loaded.revision < known.revision || loaded.position < known.seen) return;
    for (const [hash, token] of loaded.tokens) tokens.set(hash, token);
    for (const [id, organization] of loaded.organizations) organizations.set(id, organization);
    for (const verifier of loaded.verifiers.values()) keepVerifier(verifier, loaded.position);
    for (const [hash, found] of loaded.imported) {
      imported.set(hash, found);
      for (const { key } of found) entries.get(key.told.id)?.hashes.add(hash);
    }
    if (tokens.size > CACHED_TOKENS) tokens.clear();
    if (organizations.size > CACHED_ORGANIZATIONS) organizations.clear();
    for (const keyId of entries.keys()) {
      if (entries.size <= capacity) break;
      forgetKey(keyId);
    }
  }

  function keepVerifier(verifier: VerifierFacts, position: bigint): void {
    const { id } = verifier.key.told;
    const entry = entries.get(id);
    // Its other secrets were read with rules of another moment: they go, and come back when they are asked for.
    if (entry !== undefined && entry.rules !== verifier.key) forgetKey(id);
    const kept = entries.get(id) ?? { rules: verifier.key, position, verifiers: new Set(), hashes: new Set() };
    entries.set(id, kept);
    kept.verifiers.add(verifier.lookupId);
    verifiers.set(verifier.lookupId, verifier);
  }

  function forgetKey(keyId: string): void {
    const entry = entries.get(keyId);
    if (entry === undefined) return;
    entries.delete(keyId);
    for (const lookupId of entry.verifiers) verifiers.delete(lookupId);
    for (const hash of entry.hashes) imported.delete(hash);
  }

  function forgetAll(): void {
    for (const map of [tokens, organizations, verifiers, imported, entries]) map.clear();
  }

  function forgetStream(organizationId: string, kind: string, id: string, upTo: bigint): void {
    switch (kind) {
      case 'key': {
        const entry = entries.get(id);
        if (entry !== undefined && entry.position < upTo) forgetKey(id);
        return;
      }
      case 'profile':
        for (const [keyId, { rules }] of entries) if (rules.told.profile?.id === id) forgetKey(keyId);
        return;
      // A token's own, and that of the organization in which its member has a role.
      case 'token':
      case 'organization':
        organizations.delete(organizationId);
        for (const [hash, token] of tokens) if (token.organizationId === organizationId) tokens.delete(hash);
    }
  }

  return {
    find(asked) {
      return complete(asked, factsOf(asked, { tokens, organizations, verifiers, imported }));
    },
    read(asked) {
      return new Promise((resolve, reject) => {
        waiting.push({ asked, resolve, reject });
        if (!reading) {
          reading = true;
          // After the I/O of this turn: what has arrived already is read together.
          setImmediate(() => void readWaiting());
        }
      });
    },
    known: () => known,
    forget(found) {
      const { changed } = found;
      const { seen, revision } = known;
      if (found.revision === revision && found.seen === seen) return;
      // The answer to a batch that was sent before another one's answer came.
      if (found.revision < revision || (found.revision === revision && found.seen < seen && changed !== null)) return;
      if (found.revision !== revision || changed === null) forgetAll();
      else
        for (const name of changed) {
          const [organizationId = '', stream = ''] = name.split(' ');
          const colon = stream.indexOf(':');
          forgetStream(organizationId, stream.slice(0, colon), stream.slice(colon + 1), found.seen);
        }
      known = { seen: found.seen, revision: found.revision };
    },
    forgetSecret(lookupId) {
      const verifier = verifiers.get(lookupId);
      if (verifier !== undefined) forgetKey(verifier.key.told.id);
    },
  };
}

type Kept = Pick<LoadedFacts, 'tokens' | 'organizations' | 'verifiers' | 'imported'>;

function factsOf({ caller, lookupId, foreignHash }: Asked, kept: Kept): Facts {
  const token = caller.kind === 'token' ? (kept.tokens.get(caller.tokenHash) ?? null) : null;
  const organizationId = caller.kind === 'token' ? token?.organizationId : caller.organizationId;
  const organization = organizationId === undefined ? null : (kept.organizations.get(organizationId) ?? null);
  const verifier =
    lookupId !== null
      ? kept.verifiers.get(lookupId)
      : foreignHash !== null
        ? kept.imported.get(foreignHash.toString('hex'))?.find(({ key }) => key.organizationId === organizationId)
        : undefined;
  return { token, organization, verifier: verifier ?? null };
}

/** Undefined where something that may exist is not among the facts. */
function complete({ caller, lookupId, foreignHash }: Asked, facts: Facts): Facts | undefined {
  if (caller.kind === 'token' && facts.token === null) return undefined;
  if (facts.organization === null) return undefined;
  return facts.verifier === null && (lookupId !== null || foreignHash !== null) ? undefined : facts;
}
