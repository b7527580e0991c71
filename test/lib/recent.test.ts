import { describe, expect, it } from 'vitest';

import { keepRecent } from '../../src/lib/recent.ts';

describe('what was used lately', () => {
  it('is kept, and what was not used for long is forgotten', () => {
    const recent = keepRecent<number>(1000);
    recent.set('used', 1);
    recent.set('forgotten', 2);
    for (let i = 0; i < 20; i++) {
      recent.set(`other ${i}`, i);
      expect(recent.get('used')).toBe(1);
    }
    expect(recent.get('forgotten')).toBeUndefined();
  });

  it('takes so much room and no more, whether there are many short texts or a few long ones', () => {
    const recent = keepRecent<number>(10_000);
    const short = Array.from({ length: 1000 }, (_, i) => String(i));
    const long = Array.from({ length: 100 }, (_, i) => `${i} ${'x'.repeat(1000)}`);
    for (const texts of [short, long]) {
      texts.forEach((text, i) => recent.set(text, i));
      const kept = texts.toReversed().filter((text) => recent.get(text) !== undefined);
      expect(kept.length).toBeGreaterThan(0);
      expect(kept.reduce((sum, text) => sum + text.length, 0)).toBeLessThanOrEqual(20_000);
      expect(kept.length).toBeLessThanOrEqual(100);
    }
  });

  it('does not take a text that would leave no room for another', () => {
    const recent = keepRecent<number>(1000);
    recent.set('small', 1);
    recent.set('x'.repeat(1001), 2);
    expect(recent.get('x'.repeat(1001))).toBeUndefined();
    expect(recent.get('small')).toBe(1);
  });

  it('is replaced by what is set anew', () => {
    const recent = keepRecent<number>(1000);
    recent.set('a', 1);
    recent.set('a', 2);
    expect(recent.get('a')).toBe(2);
  });
});
