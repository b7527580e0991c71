import { expect } from 'vitest';

/** A text that matches, in an expected object; vitest's own matchers are of type any. */
export function textMatching(pattern: RegExp | string): unknown {
  return typeof pattern === 'string' ? expect.stringContaining(pattern) : expect.stringMatching(pattern);
}
