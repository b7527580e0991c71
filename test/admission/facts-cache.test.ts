import { expect, it } from 'vitest';

import { AdmissionUnavailableError } from '../../src/admission/admission.ts';
import type { Asked, Wanted } from '../../src/admission/asked.ts';
import { createFactsCache } from '../../src/admission/facts-cache.ts';
import type { KeyRules, OrganizationFacts, TokenFacts, VerifierFacts } from '../../src/admission/facts.ts';
import type { ProfileFacts } from '../../src/admission/key-facts.ts';
import type { LoadedFacts } from '../../src/admission/load-facts.ts';

/** What the database holds, in as few words as the cache needs: keys with their secrets, and who imported which. */
type Stored = {
  position: bigint;
  revision: bigint;
  readonly keys: Record<
    string,
    { organization: string; secrets: string[]; profile?: string; imported?: string[]; version: number; bytes?: number }
  >;
  readonly tokens: Record<string, string>;
};

/** A cache over a database whose answers come when the test lets them. */
function openCache(stored: Stored, { capacity = 1000, maxBytes = 1_000_000, maxQueued = 1000, maxWaitMs = 5000 } = {}) {
  const held: (() => void)[] = [];
  let holding = false;
  let loads = 0;
  const cache = createFactsCache({
    capacity,
    maxBytes,
    maxRead: 500,
    maxQueued,
    maxWaitMs,
    async load(wanted: readonly Wanted[]) {
      loads++;
      const snapshot = snapshotOf(stored, wanted);
      if (holding) await new Promise<void>((resolve) => held.push(resolve));
      return snapshot;
    },
  });
  return {
    cache,
    loads: () => loads,
    hold: () => void (holding = true),
    release() {
      holding = false;
      for (const go of held.splice(0)) go();
    },
    /** Something happens to streams, and a batch's answer tells. */
    change(...streams: readonly string[]) {
      stored.position += BigInt(streams.length);
      cache.forget({ seen: stored.position, seenId: idOf(stored.position), revision: stored.revision, changed: streams });
    },
  };
}

const idOf = (position: bigint): string => `event ${position}`;

function snapshotOf({ position, revision, keys, tokens }: Stored, wanted: readonly Wanted[]): LoadedFacts {
  const verifiers = new Map<string, VerifierFacts>();
  const imported = new Map<string, VerifierFacts[]>();
  const organizations = new Map<string, OrganizationFacts>();
  const foundTokens = new Map<string, TokenFacts>();
  const hashes = new Set(wanted.flatMap(({ foreignHash }) => foreignHash?.toString('hex') ?? []));
  for (const [id, { organization, secrets, profile, imported: own = [], version, bytes = 1000 }] of Object.entries(keys)) {
    const told = { id, profile: profile === undefined ? null : { id: profile, settings: {} }, name: `version ${version}` };
    const key = { organizationId: organization, told, bytes } as unknown as KeyRules;
    const verifierOf = (lookupId: string): VerifierFacts => ({ lookupId, mac: '', pepperId: 'p1', current: true, expiresUs: null, key });
    for (const lookupId of secrets) if (wanted.some((asked) => asked.lookupId === lookupId)) verifiers.set(lookupId, verifierOf(lookupId));
    for (const hash of own.filter((text) => hashes.has(text))) {
      const verifier = verifierOf(`import of ${hash} ${id}`);
      verifiers.set(verifier.lookupId, verifier);
      imported.set(hash, [...(imported.get(hash) ?? []), verifier]);
    }
  }
  for (const { caller } of wanted) {
    const organizationId = caller.kind === 'token' ? tokens[caller.tokenHash] : caller.organizationId;
    if (organizationId === undefined) continue;
    organizations.set(organizationId, { id: organizationId, number: 1, capped: false, balanced: false });
    if (caller.kind === 'token') foundTokens.set(caller.tokenHash, { organizationId, valid: true, mayVerify: true, expiresUs: null });
  }
  return { position, positionId: idOf(position), revision, tokens: foundTokens, organizations, verifiers, imported };
}

const asked = (what: { secret?: string; foreign?: string; organization?: string; token?: string }): Asked => ({
  caller:
    what.token === undefined
      ? { kind: 'organization', organizationId: what.organization ?? 'acme' }
      : { kind: 'token', tokenHash: what.token },
  request: {} as Asked['request'],
  lookupId: what.secret ?? null,
  foreignHash: what.foreign === undefined ? null : Buffer.from(what.foreign, 'hex'),
  mac: '',
});
const nameIn = (facts: { readonly verifier: VerifierFacts | null } | undefined): string | undefined => facts?.verifier?.key.told.name;
const stored = (keys: Stored['keys'] = { k1: { organization: 'acme', secrets: ['s1'], version: 1 } }): Stored => ({
  position: 10n,
  revision: 0n,
  keys,
  tokens: { t1: 'acme', t2: 'other' },
});
const turn = () => new Promise((resolve) => setImmediate(() => setImmediate(resolve)));

it('what was being read when it changed is not kept, and what was read beside it is', async () => {
  const database = stored({
    k1: { organization: 'acme', secrets: ['s1'], version: 1 },
    k2: { organization: 'other', secrets: ['s2'], version: 1 },
  });
  const { cache, hold, release, change } = openCache(database);
  await cache.read(asked({ secret: 's1' }));
  change('acme key:k1');
  hold();
  const reading = Promise.all([cache.read(asked({ secret: 's1' })), cache.read(asked({ secret: 's2', organization: 'other' }))]);
  await turn();
  database.keys['k1']!.version = 2;
  change('acme key:k1', 'acme profile:p9');
  release();
  // Whoever asked before the change may be told of before it.
  expect(nameIn((await reading)[0])).toBe('version 1');
  expect(cache.find(asked({ secret: 's1' }))).toBeUndefined();
  expect(nameIn(cache.find(asked({ secret: 's2', organization: 'other' })))).toBe('version 1');
  expect(nameIn(await cache.read(asked({ secret: 's1' })))).toBe('version 2');
  expect(nameIn(cache.find(asked({ secret: 's1' })))).toBe('version 2');
});

it('tokens, organizations and profiles that were being read when they changed are not kept', async () => {
  const database = stored({ k1: { organization: 'acme', secrets: ['s1'], profile: 'p1', version: 1 } });
  const { cache, hold, release, change } = openCache(database);
  await cache.read(asked({ secret: 's1' }));
  for (const stream of ['acme token:t1', 'acme organization:acme', 'acme profile:p1']) {
    hold();
    const reading = cache.read(asked({ secret: 's1', token: 't1' }));
    await turn();
    change(stream);
    release();
    await reading;
    expect(cache.find(asked({ secret: 's1', token: 't1' }))).toBeUndefined();
    await cache.read(asked({ secret: 's1', token: 't1' }));
    expect(cache.find(asked({ secret: 's1', token: 't1' }))).toBeDefined();
  }
});

it('nothing that was being read is kept when all was forgotten, when rows were mended, and when the log is another one', async () => {
  const database = stored();
  const { cache, hold, release } = openCache(database);
  await cache.read(asked({ secret: 's1' }));
  const during = async (happens: () => void): Promise<void> => {
    hold();
    const reading = cache.read(asked({ secret: 's1' }));
    await turn();
    happens();
    release();
    await reading;
    expect(cache.find(asked({ secret: 's1' }))).toBeUndefined();
    await cache.read(asked({ secret: 's1' }));
    expect(cache.find(asked({ secret: 's1' }))).toBeDefined();
  };
  await during(() => cache.forgetAll());
  await during(() => {
    database.revision++;
    cache.forget({ seen: database.position, seenId: idOf(database.position), revision: database.revision, changed: null });
  });
  await during(() => {
    // Restored: both the log and the count of mendings are what they were long ago.
    database.position = 3n;
    database.revision = 0n;
    cache.forget({ seen: 3n, seenId: idOf(3n), revision: 0n, changed: null });
  });
  await during(() => {
    database.position += 1n;
    cache.forget({ seen: database.position, seenId: idOf(database.position), revision: database.revision, changed: null });
  });
});

it('a second secret of a key that is read later brings the rules of its moment, and those of before go with the first', async () => {
  const database = stored({ k1: { organization: 'acme', secrets: ['s1', 's2'], version: 1 } });
  const { cache } = openCache(database);
  await cache.read(asked({ secret: 's1' }));
  database.keys['k1']!.version = 2;
  database.position++;
  await cache.read(asked({ secret: 's2' }));
  expect(cache.find(asked({ secret: 's1' }))).toBeUndefined();
  expect(nameIn(cache.find(asked({ secret: 's2' })))).toBe('version 2');
  // A batch that was sent before tells of that change now: what is kept includes it.
  cache.forget({ seen: 11n, seenId: idOf(11n), revision: 0n, changed: ['acme key:k1'] });
  expect(nameIn(cache.find(asked({ secret: 's2' })))).toBe('version 2');
  await cache.read(asked({ secret: 's1' }));
  database.keys['k1']!.version = 3;
  database.position++;
  cache.forget({ seen: 12n, seenId: idOf(12n), revision: 0n, changed: ['acme key:k1'] });
  expect(cache.find(asked({ secret: 's1' }))).toBeUndefined();
  expect(cache.find(asked({ secret: 's2' }))).toBeUndefined();
});

it('an imported secret is found in each organization that has it, also in one that imported it later, and nowhere else', async () => {
  const hash = 'ab'.repeat(32);
  const database = stored({ k1: { organization: 'acme', secrets: [], imported: [hash], version: 1 } });
  const { cache, change } = openCache(database);
  await cache.read(asked({ foreign: hash }));
  expect(cache.find(asked({ foreign: hash }))?.verifier?.key.told.id).toBe('k1');
  expect((await cache.read(asked({ foreign: hash, organization: 'other' }))).verifier).toBeNull();
  expect(cache.find(asked({ foreign: hash, organization: 'other' }))).toBeUndefined();
  database.keys['k2'] = { organization: 'other', secrets: [], imported: [hash], version: 1 };
  await cache.read(asked({ foreign: hash, organization: 'other' }));
  expect(cache.find(asked({ foreign: hash, organization: 'other' }))?.verifier?.key.told.id).toBe('k2');
  expect(cache.find(asked({ foreign: hash }))?.verifier?.key.told.id).toBe('k1');
  delete database.keys['k1'];
  change('acme key:k1');
  expect(cache.find(asked({ foreign: hash }))).toBeUndefined();
  expect((await cache.read(asked({ foreign: hash }))).verifier).toBeNull();
});

it('no more than its capacity is kept: the oldest keys, tokens and organizations go, and come back when they are asked for', async () => {
  const database = stored(
    Object.fromEntries(Array.from({ length: 50 }, (_, n) => [`k${n}`, { organization: 'acme', secrets: [`s${n}`], version: 1 }])),
  );
  const { cache } = openCache(database, { capacity: 20 });
  for (let n = 0; n < 50; n++) await cache.read(asked({ secret: `s${n}` }));
  const kept = Array.from({ length: 50 }, (_, n) => n).filter((n) => cache.find(asked({ secret: `s${n}` })) !== undefined);
  expect(kept).toEqual(Array.from({ length: 20 }, (_, n) => n + 30));
  expect(nameIn(await cache.read(asked({ secret: 's1' })))).toBe('version 1');
  expect(cache.find(asked({ secret: 's1' }))).toBeDefined();

  for (let n = 0; n < 10_050; n++) database.tokens[`many ${n}`] = `organization ${n}`;
  await Promise.all(Array.from({ length: 500 }, (_, n) => cache.read(asked({ token: `many ${n}` }))));
  for (let from = 500; from < 10_050; from += 500)
    await Promise.all(
      Array.from({ length: 500 }, (_, n) => `many ${from + n}`)
        .filter((token) => database.tokens[token] !== undefined)
        .map((token) => cache.read(asked({ token }))),
    );
  const tokensKept = Array.from({ length: 10_050 }, (_, n) => n).filter((n) => cache.find(asked({ token: `many ${n}` })) !== undefined);
  expect(tokensKept).toHaveLength(10_000);
  expect(tokensKept[0]).toBe(50);
});

it('what does not exist takes no room, and what waits to be read is bounded and does not wait for ever', async () => {
  const database = stored();
  const { cache, hold, release, loads } = openCache(database, { maxQueued: 100, maxWaitMs: 30 });
  for (let n = 0; n < 20; n++) expect((await cache.read(asked({ secret: `bogus ${n}` }))).verifier).toBeNull();
  expect(cache.find(asked({ secret: 'bogus 1' }))).toBeUndefined();
  hold();
  const before = loads();
  const first = cache.read(asked({ secret: 's1' }));
  await turn();
  const sprayed = await Promise.all(
    Array.from({ length: 200 }, (_, n) =>
      Promise.race([
        cache.read(asked({ secret: `spray ${n}` })).then(
          () => 'read',
          (error: unknown) => (error instanceof AdmissionUnavailableError ? 'refused' : String(error)),
        ),
        turn().then(() => 'waits'),
      ]),
    ),
  );
  expect(sprayed.filter((outcome) => outcome === 'refused')).toHaveLength(100);
  expect(sprayed.filter((outcome) => outcome === 'waits')).toHaveLength(100);
  await new Promise((resolve) => setTimeout(resolve, 50));
  const late = cache.read(asked({ secret: 's1' })).then(
    () => 'read',
    () => 'refused',
  );
  release();
  expect((await first).verifier).not.toBeNull();
  // All that waited too long is refused at once, without a look into the database.
  expect(await late).toBe('refused');
  await turn();
  expect(loads()).toBe(before + 1);
  await cache.close();
});

it('no more bytes than told are kept: large keys push others out, and make room when they change or go', async () => {
  const keys = Array.from({ length: 30 }, (_, n) => [`k${n}`, { organization: 'acme', secrets: [`s${n}`, `t${n}`], version: 1 }] as const);
  const database = stored({ ...Object.fromEntries(keys), large: { organization: 'acme', secrets: ['large'], version: 1, bytes: 15_500 } });
  const { cache, change } = openCache(database, { maxBytes: 20_000 });
  const kept = (): readonly number[] => keys.map((__, n) => n).filter((n) => cache.find(asked({ secret: `s${n}` })) !== undefined);
  const from = (first: number, last = 29): readonly number[] => Array.from({ length: last - first + 1 }, (_, n) => n + first);
  for (let n = 0; n < 30; n++) await cache.read(asked({ secret: `s${n}` }));
  expect(kept()).toEqual(from(10));
  // A second secret of a key that is kept.
  await cache.read(asked({ secret: 't29' }));
  expect(kept().length).toBeGreaterThanOrEqual(19);
  await cache.read(asked({ secret: 'large' }));
  expect(kept().length).toBeLessThanOrEqual(4);
  expect(cache.find(asked({ secret: 'large' }))).toBeDefined();
  change('acme key:large');
  expect(cache.find(asked({ secret: 'large' }))).toBeUndefined();
  for (let n = 0; n < 16; n++) await cache.read(asked({ secret: `s${n}` }));
  expect(kept().filter((n) => n < 16)).toEqual(from(0, 15));
  cache.forgetAll();
  for (let n = 10; n < 30; n++) await cache.read(asked({ secret: `s${n}` }));
  expect(kept()).toEqual(from(10));
  await cache.close();
});

/** A cache of keys with profiles as they are at each reading. */
function openCacheWithProfiles(profileOf: (lookupId: string) => ProfileFacts, { maxBytes }: { readonly maxBytes: number }) {
  const database = stored({});
  const cache = createFactsCache({
    capacity: 1000,
    maxBytes,
    maxRead: 500,
    maxQueued: 1000,
    maxWaitMs: 5000,
    load: (wanted, sharing) => {
      const verifiers = new Map<string, VerifierFacts>();
      for (const { lookupId } of wanted) {
        if (lookupId === null) continue;
        const profile = sharing({ ...profileOf(lookupId) }, database.revision);
        const key = { organizationId: 'acme', told: { id: lookupId, profile }, bytes: 1000 } as unknown as KeyRules;
        verifiers.set(lookupId, { lookupId, mac: '', pepperId: 'p1', current: true, expiresUs: null, key });
      }
      return Promise.resolve({ ...snapshotOf(database, wanted), verifiers });
    },
  });
  return {
    cache,
    database,
    read: async (secret: string) => (await cache.read(asked({ secret }))).verifier?.key.told.profile,
    kept: (secret: string) => cache.find(asked({ secret })) !== undefined,
  };
}

it('keys with one profile share it in memory, until it has another version, was mended or everything is forgotten', async () => {
  let version = 1;
  const { cache, database, read } = openCacheWithProfiles(() => ({ id: 'p1', version, name: 'Gold', settings: {} }), {
    maxBytes: Infinity,
  });
  const first = await read('s1');
  expect(await read('s2')).toBe(first);
  expect(await read('s3')).toBe(first);
  version = 2;
  const second = await read('s2');
  expect(second).toMatchObject({ version: 2 });
  expect(await read('s3')).toBe(second);
  // Mended: the first that reads it does not know yet that what is in memory is not it.
  database.revision++;
  expect(await read('s4')).not.toBe(second);
  cache.forget({ seen: database.position, seenId: idOf(database.position), revision: database.revision, changed: [] });
  const third = await read('s4');
  expect(third).not.toBe(second);
  expect(await read('s5')).toBe(third);
  cache.forgetAll();
  expect(await read('s5')).not.toBe(third);
  await cache.close();
});

it('a profile counts among the bytes once, for as long as a kept key has it', async () => {
  const settings = { text: 'x'.repeat(600) };
  const shared = openCacheWithProfiles(() => ({ id: 'p1', version: 1, name: 'Gold', settings }), { maxBytes: 20_000 });
  for (let n = 0; n < 10; n++) await shared.read(`s${n}`);
  expect(Array.from({ length: 10 }, (_, n) => shared.kept(`s${n}`))).not.toContain(false);
  // Of two with profiles of their own, only one has room.
  const apart = openCacheWithProfiles((lookupId) => ({ id: lookupId, version: 1, name: 'Gold', settings }), { maxBytes: 20_000 });
  for (let n = 0; n < 10; n++) {
    await apart.read(`s${n}`);
    expect(Array.from({ length: n + 1 }, (_, other) => apart.kept(`s${other}`)).filter(Boolean)).toHaveLength(1);
  }
  expect(apart.kept('s9')).toBe(true);
  await shared.cache.close();
  await apart.cache.close();
});

it('ten thousand changes of profiles and tokens are forgotten in one pass over all that is kept', async () => {
  const database = stored(
    Object.fromEntries(
      Array.from({ length: 30_000 }, (_, n) => [`k${n}`, { organization: 'acme', secrets: [`s${n}`], profile: `p${n}`, version: 1 }]),
    ),
  );
  const all = snapshotOf(database, []);
  const cache = createFactsCache({
    capacity: 100_000,
    maxBytes: Infinity,
    maxRead: 500,
    maxQueued: 1000,
    maxWaitMs: 5000,
    load: () => {
      const verifiers = new Map<string, VerifierFacts>();
      for (const [id, { profile = '' }] of Object.entries(database.keys)) {
        const key = { organizationId: 'acme', told: { id, profile: { id: profile, settings: {} } }, bytes: 1000 } as unknown as KeyRules;
        verifiers.set(id, { lookupId: id, mac: '', pepperId: 'p1', current: true, expiresUs: null, key });
      }
      return Promise.resolve({
        ...all,
        verifiers,
        organizations: new Map([['acme', { id: 'acme', number: 1, capped: false, balanced: false }]]),
      });
    },
  });
  await cache.read(asked({ secret: 'k0' }));
  expect(cache.find(asked({ secret: 'k29999' }))).toBeDefined();
  const started = performance.now();
  cache.forget({
    seen: 20_000n,
    seenId: 'newer',
    revision: 0n,
    changed: Array.from({ length: 10_000 }, (_, n) => `acme profile:p${n + 5000}`),
  });
  // One pass takes 10 ms; one for each of them took seconds, in which nothing else is answered.
  expect(performance.now() - started).toBeLessThan(400);
  expect(cache.find(asked({ secret: 'k4999' }))).toBeDefined();
  expect(cache.find(asked({ secret: 'k5000' }))).toBeUndefined();
  expect(cache.find(asked({ secret: 'k14999' }))).toBeUndefined();
  expect(cache.find(asked({ secret: 'k15000' }))).toBeDefined();
});
