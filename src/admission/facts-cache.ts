import { getHeapStatistics } from 'node:v8';

import type { Wanted } from './asked.ts';
import { createBatcher } from './batcher.ts';
import type { Facts, KeyRules, OrganizationFacts, TokenFacts, VerifierFacts } from './facts.ts';
import { createKeptProfiles } from './kept-profiles.ts';
import type { ProfileFacts } from './key-facts.ts';
import type { LoadedFacts, Sharing } from './load-facts.ts';

/** Keys, and what they may take of the memory that this process has at most. */
export const KEPT_BY_A_SERVER = { capacity: 100_000, maxBytes: Math.min(512 * 1024 * 1024, getHeapStatistics().heap_size_limit / 8) };
const CACHED_TOKENS = 10_000;
const CACHED_ORGANIZATIONS = 10_000;

/** Up to where facts are known to hold: what the statement that consumes compares the log with. */
export type Known = {
  /** The newest life-cycle event that they include, by its position and by its id: a log that was restored may have another one there. */
  readonly seen: bigint;
  readonly seenId: string | null;
  /** Of rows that were mended without an event. */
  readonly revision: bigint;
};

/** What a batch's statement found: `changed` holds "<organization> <stream>" of what is newer, null where that is too much to tell or another log. */
export type Found = Known & { readonly changed: readonly string[] | null };

/**
 * What decides about requests but what they use up, in memory. None of it is ever trusted: the statement that consumes is told up to which event of the log it was
 * read, and does nothing where a newer one concerns the batch. That something does not exist is not kept, so that a new key is known at once.
 */
export type FactsCache = {
  /** From memory; undefined where anything is not there. What is found holds up to {@link FactsCache.known} as it is at this very moment. */
  find(asked: Wanted): Facts | undefined;
  /**
   * From the database, in a snapshot that is newer than the call. Calls that come while one is under way share the next. Throws AdmissionUnavailableError where
   * too many wait.
   */
  read(asked: Wanted): Promise<Facts>;
  /** The same object for as long as what `find` answered holds. */
  known(): Known;
  /** Forgets what has changed. */
  forget(found: Found): void;
  /** Forgets a verifier that was written anew without an event. */
  forgetSecret(lookupId: string): void;
  /** Forgets everything, and what is being read: the database may be another one by now. */
  forgetAll(): void;
  close(): Promise<void>;
};

type Entry = { readonly rules: KeyRules; readonly position: bigint; readonly verifiers: Set<string>; readonly hashes: Set<string> };

/** Of the reading that is under way: what was forgotten meanwhile, which its snapshot may not know; null where that is everything. */
type Reading = { readonly since: bigint; missed: string[] | null };

const NOTHING_KNOWN: Known = { seen: -1n, seenId: null, revision: -1n };

export function createFactsCache(options: {
  /** Reads what some requests are about in one snapshot. */
  readonly load: (wanted: readonly Wanted[], sharing: Sharing) => Promise<LoadedFacts>;
  /** Keys that are kept at most, and about how many bytes of them: what came first is forgotten first. */
  readonly capacity: number;
  readonly maxBytes: number;
  /** Requests whose facts are read by one statement, that wait for it, and for how long. */
  readonly maxRead: number;
  readonly maxQueued: number;
  readonly maxWaitMs: number;
}): FactsCache {
  const { capacity, maxBytes, maxRead, maxQueued, maxWaitMs, load } = options;
  const tokens = new Map<string, TokenFacts>();
  const organizations = new Map<string, OrganizationFacts>();
  const verifiers = new Map<string, VerifierFacts>();
  const imported = new Map<string, readonly VerifierFacts[]>();
  const profilesKept = createKeptProfiles();
  /** By the key's id, in the order in which they came. */
  const entries = new Map<string, Entry>();
  let bytes = 0;
  let known = NOTHING_KNOWN;
  let reading: Reading | undefined;

  const readers = createBatcher<Wanted, Facts>({
    async run(wanted) {
      reading = { since: known.seen, missed: [] };
      try {
        const loaded = await load(wanted, sharing);
        keep(loaded, reading);
        return wanted.map((asked) => factsOf(asked, loaded, loaded.position));
      } finally {
        reading = undefined;
      }
    },
    maxInFlight: 1,
    maxBatch: maxRead,
    maxQueued,
    maxWaitMs,
  });

  /** A version of a profile never changes, unless its row is mended or the log is another one: then all is forgotten, and what is being read is not compared with it. */
  function sharing(profile: ProfileFacts, revision: bigint): ProfileFacts {
    if (revision !== known.revision || reading?.missed === null) return profile;
    const kept = profilesKept.find(profile.id);
    return kept?.version === profile.version ? kept : profile;
  }

  function keep(loaded: LoadedFacts, { since, missed }: Reading): void {
    if (missed === null) return;
    if (known === NOTHING_KNOWN) known = { seen: loaded.position, seenId: loaded.positionId, revision: loaded.revision };
    // Of another log, or mended meanwhile: the next batch's answer tells, and all is forgotten.
    if (loaded.revision !== known.revision || loaded.position < since) return;
    if (loaded.position === known.seen && loaded.positionId !== known.seenId) return;
    for (const [hash, token] of loaded.tokens) put(tokens, hash, token, CACHED_TOKENS);
    for (const [id, organization] of loaded.organizations) put(organizations, id, organization, CACHED_ORGANIZATIONS);
    for (const verifier of loaded.verifiers.values()) keepVerifier(verifier, loaded.position);
    for (const [hash, found] of loaded.imported) {
      imported.set(hash, found);
      for (const { key } of found) entries.get(key.told.id)?.hashes.add(hash);
    }
    // A snapshot from before what is known to have changed meanwhile would bring that back.
    if (loaded.position < known.seen) forgetChanged(missed, known.seen);
    for (const keyId of entries.keys()) {
      if (entries.size <= capacity && bytes <= maxBytes) break;
      forgetKey(keyId);
    }
  }

  function keepVerifier(verifier: VerifierFacts, position: bigint): void {
    const { id } = verifier.key.told;
    const entry = entries.get(id);
    // Its other secrets were read with rules of another moment: they go, and come back when they are asked for.
    if (entry !== undefined && entry.rules !== verifier.key) forgetKey(id);
    let kept = entries.get(id);
    if (kept === undefined) {
      kept = { rules: verifier.key, position, verifiers: new Set(), hashes: new Set() };
      entries.set(id, kept);
      bytes += verifier.key.bytes + profilesKept.add(verifier.key.told.profile);
    }
    kept.verifiers.add(verifier.lookupId);
    verifiers.set(verifier.lookupId, verifier);
  }

  function forgetKey(keyId: string): void {
    const entry = entries.get(keyId);
    if (entry === undefined) return;
    entries.delete(keyId);
    bytes -= entry.rules.bytes + profilesKept.remove(entry.rules.told.profile);
    for (const lookupId of entry.verifiers) verifiers.delete(lookupId);
    for (const hash of entry.hashes) imported.delete(hash);
  }

  function forgetAll(): void {
    for (const map of [tokens, organizations, verifiers, imported, entries]) map.clear();
    profilesKept.clear();
    bytes = 0;
    known = NOTHING_KNOWN;
    if (reading !== undefined) reading.missed = null;
  }

  /** One pass over what is kept, however much has changed. */
  function forgetChanged(changed: readonly string[], upTo: bigint): void {
    const profiles = new Set<string>();
    const changedOrganizations = new Set<string>();
    for (const name of changed) {
      const [organizationId = '', stream = ''] = name.split(' ');
      const colon = stream.indexOf(':');
      const id = stream.slice(colon + 1);
      switch (stream.slice(0, colon)) {
        case 'key': {
          const entry = entries.get(id);
          if (entry !== undefined && entry.position < upTo) forgetKey(id);
          break;
        }
        case 'profile':
          profiles.add(id);
          break;
        // A token's own, and that of the organization in which its member has a role.
        case 'token':
        case 'organization':
          changedOrganizations.add(organizationId);
      }
    }
    if (profiles.size > 0)
      for (const [keyId, { rules }] of entries) if (rules.told.profile !== null && profiles.has(rules.told.profile.id)) forgetKey(keyId);
    if (changedOrganizations.size > 0)
      for (const [hash, token] of tokens) if (changedOrganizations.has(token.organizationId)) tokens.delete(hash);
    for (const id of changedOrganizations) organizations.delete(id);
  }

  return {
    find(asked) {
      return complete(asked, factsOf(asked, { tokens, organizations, verifiers, imported }, null));
    },
    read: (asked) => readers.add(asked),
    known: () => known,
    forget({ seen, seenId, revision, changed }) {
      if (revision === known.revision && seen === known.seen && seenId === known.seenId) return;
      // The answer to a batch that was sent before another one's answer came.
      if (revision === known.revision && seen < known.seen && changed !== null) return;
      if (changed === null || revision !== known.revision) forgetAll();
      else {
        forgetChanged(changed, seen);
        reading?.missed?.push(...changed);
      }
      known = { seen, seenId, revision };
    },
    forgetSecret(lookupId) {
      const verifier = verifiers.get(lookupId);
      if (verifier !== undefined) forgetKey(verifier.key.told.id);
    },
    forgetAll,
    close: () => readers.close(),
  };
}

/** What came first goes first where there is too much. */
function put<Value>(map: Map<string, Value>, name: string, value: Value, capacity: number): void {
  map.set(name, value);
  for (const first of map.keys()) {
    if (map.size <= capacity) return;
    map.delete(first);
  }
}

type Kept = Pick<LoadedFacts, 'tokens' | 'organizations' | 'verifiers' | 'imported'>;

function factsOf({ caller, lookupId, foreignHash }: Wanted, kept: Kept, readAt: bigint | null): Facts {
  const token = caller.kind === 'token' ? (kept.tokens.get(caller.tokenHash) ?? null) : null;
  const organizationId = caller.kind === 'token' ? token?.organizationId : caller.organizationId;
  const organization = organizationId === undefined ? null : (kept.organizations.get(organizationId) ?? null);
  const verifier =
    lookupId !== null
      ? kept.verifiers.get(lookupId)
      : foreignHash !== null
        ? kept.imported.get(foreignHash.toString('hex'))?.find(({ key }) => key.organizationId === organizationId)
        : undefined;
  return { readAt, token, organization, verifier: verifier ?? null };
}

/** Undefined where something that may exist is not among the facts. */
function complete({ caller, lookupId, foreignHash }: Wanted, facts: Facts): Facts | undefined {
  if (caller.kind === 'token' && facts.token === null) return undefined;
  if (facts.organization === null) return undefined;
  return facts.verifier === null && (lookupId !== null || foreignHash !== null) ? undefined : facts;
}
