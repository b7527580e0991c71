import { argon2Sync, createHash } from 'node:crypto';

import { describe, expect, it } from 'vitest';

import { createArgon2Verifiers, fingerprint } from '../../src/identity/argon2-verifier.ts';

const one = { concurrency: 1, queueLimit: 16 };

describe('a durable verifier', () => {
  it('is an argon2id PHC string with the parameters of OWASP, salted', async () => {
    const verifiers = createArgon2Verifiers(one);
    const phc = await verifiers.hash('secret');
    expect(phc).toMatch(/^\$argon2id\$v=19\$m=19456,t=2,p=1\$[\w+/]{22}\$[\w+/]{43}$/);
    expect(await verifiers.hash('secret')).not.toBe(phc);
  });

  it('can be checked by another implementation', async () => {
    const [, , , parameters = '', salt = '', tag] = (await createArgon2Verifiers(one).hash('secret')).split('$');
    const [memory, passes, parallelism] = parameters.split(',').map((pair) => Number(pair.split('=')[1]));
    const recomputed = argon2Sync('argon2id', {
      message: 'secret',
      nonce: Buffer.from(salt, 'base64'),
      memory: memory ?? 0,
      passes: passes ?? 0,
      parallelism: parallelism ?? 0,
      tagLength: 32,
    });
    expect(recomputed.toString('base64').replace('=', '')).toBe(tag);
  });

  it('matches its secret and no other', async () => {
    const verifiers = createArgon2Verifiers(one);
    const phc = await verifiers.hash('secret');
    expect(await verifiers.verify(phc, 'secret')).toBe('match');
    expect(await verifiers.verify(phc, 'secreT')).toBe('mismatch');
  });

  it('throws where the stored text can not be read, and goes on after that', async () => {
    const verifiers = createArgon2Verifiers(one);
    await expect(verifiers.verify('$argon2id$broken', 'canary')).rejects.toThrow(/^argon2: a stored verifier can not be read/);
    expect(await verifiers.verify(await verifiers.hash('secret'), 'secret')).toBe('match');
  });

  it('has a fingerprint that is the SHA-256 of its text', () => {
    expect(fingerprint('$argon2id$')).toBe(createHash('sha256').update('$argon2id$').digest('hex'));
  });
});

describe('the queue of durable verifiers', () => {
  it('answers busy when it is full, keeps its promises to those that wait, and has room again', async () => {
    const verifiers = createArgon2Verifiers({ concurrency: 1, queueLimit: 2 });
    const phc = await verifiers.hash('secret');
    const asked = ['a', 'b', 'secret', 'd', 'e'].map((text) => verifiers.verify(phc, text));
    // One runs, two wait, two are refused.
    expect(await Promise.all(asked)).toEqual(['mismatch', 'mismatch', 'match', 'busy', 'busy']);
    expect(await verifiers.verify(phc, 'secret')).toBe('match');
  });

  it('lets one run and none wait with a limit of zero', async () => {
    const verifiers = createArgon2Verifiers({ concurrency: 1, queueLimit: 0 });
    const phc = await verifiers.hash('secret');
    expect(await Promise.all([verifiers.verify(phc, 'secret'), verifiers.verify(phc, 'x')])).toEqual(['match', 'busy']);
  });

  it('never refuses a hash, and takes turns between the two kinds, so that neither waits for all of the other', async () => {
    const verifiers = createArgon2Verifiers({ concurrency: 1, queueLimit: 4 });
    const phc = await verifiers.hash('secret');
    const ended: string[] = [];
    const note = (name: string) => (): void => void ended.push(name);
    await Promise.all([
      ...['v1', 'v2', 'v3', 'v4', 'v5'].map((name) => verifiers.verify(phc, name).then(note(name))),
      ...['h1', 'h2', 'h3', 'h4', 'h5', 'h6'].map((name) => verifiers.hash(name).then(note(name))),
    ]);
    expect(ended).toEqual(['v1', 'h1', 'v2', 'h2', 'v3', 'h3', 'v4', 'h4', 'v5', 'h5', 'h6']);
  });

  it('computes equal questions once, so that one busy key does not fill it', async () => {
    const verifiers = createArgon2Verifiers({ concurrency: 1, queueLimit: 1 });
    const phc = await verifiers.hash('secret');
    const answers = await Promise.all(Array.from({ length: 200 }, () => verifiers.verify(phc, 'secret')));
    expect(new Set(answers)).toEqual(new Set(['match']));
    // The control: as many different questions are not shared.
    const different = await Promise.all(Array.from({ length: 200 }, (_, index) => verifiers.verify(phc, `secret${index}`)));
    expect(different.filter((answer) => answer === 'busy')).toHaveLength(198);
  });

  it('runs no more than its concurrency at a time', async () => {
    const verifiers = createArgon2Verifiers({ concurrency: 2, queueLimit: 1 });
    const phc = await verifiers.hash('secret');
    const answers = await Promise.all(['a', 'b', 'c', 'd'].map((text) => verifiers.verify(phc, text)));
    expect(answers).toEqual(['mismatch', 'mismatch', 'mismatch', 'busy']);
  });

  it('lets a waiting hash leave when its signal fires, and not one that has begun', async () => {
    const verifiers = createArgon2Verifiers(one);
    const leaving = new AbortController();
    const begun = verifiers.hash('first', leaving.signal);
    const waiting = verifiers.hash('second', leaving.signal);
    leaving.abort(new Error('gone'));
    await expect(waiting).rejects.toThrow('gone');
    expect(await begun).toMatch(/^\$argon2id\$/);
    await expect(verifiers.hash('third', leaving.signal)).rejects.toThrow('gone');
  });

  it('on close turns away what waits, ends what runs, and takes no more', async () => {
    const verifiers = createArgon2Verifiers(one);
    const phc = await verifiers.hash('secret');
    const running = verifiers.verify(phc, 'secret');
    const waiting = verifiers.verify(phc, 'other');
    const hash = verifiers.hash('secret').catch((error: unknown) => String(error));
    let ended = false;
    void running.then(() => {
      ended = true;
    });
    await verifiers.close();
    expect(ended).toBe(true);
    expect(await running).toBe('match');
    expect(await waiting).toBe('busy');
    expect(await hash).toMatch(/closed/);
    expect(await verifiers.verify(phc, 'secret')).toBe('busy');
    await expect(verifiers.hash('late')).rejects.toThrow(/closed/);
  });

  it('refuses settings that would stop it', () => {
    expect(() => createArgon2Verifiers({ concurrency: 0, queueLimit: 1 })).toThrow(RangeError);
    expect(() => createArgon2Verifiers({ concurrency: 1, queueLimit: -1 })).toThrow(RangeError);
    expect(() => createArgon2Verifiers({ concurrency: 1, queueLimit: Number.NaN })).toThrow(RangeError);
  });
});
