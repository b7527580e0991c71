import { expect, it } from 'vitest';

import { staleAnswers, type Changed, type Observed } from './interval-checker.ts';

const CHANGES: readonly Changed[] = [
  { subject: 'a key', what: 'create', sentMs: 0, acknowledgedMs: 10, outcome: 'VALID' },
  { subject: 'a key', what: 'deactivate', sentMs: 100, acknowledgedMs: 110, outcome: 'INACTIVE' },
];
const asked = (startMs: number, endMs: number, outcome: string): Observed => ({ subject: 'a key', server: 0, startMs, endMs, outcome });

it('an answer that contradicts the last acknowledged change is found', () => {
  expect(staleAnswers([asked(111, 112, 'VALID')], CHANGES)).toEqual([
    expect.stringContaining("VALID from server 0 to a question of 1.0 ms after 'deactivate'"),
  ]);
  expect(staleAnswers([asked(20, 99, 'INACTIVE')], CHANGES)).toHaveLength(1);
});

it('an answer that overlaps a change may be what was before it or after', () => {
  expect(
    staleAnswers(
      [asked(20, 30, 'VALID'), asked(95, 105, 'VALID'), asked(95, 105, 'INACTIVE'), asked(109, 130, 'VALID'), asked(111, 112, 'INACTIVE')],
      CHANGES,
    ),
  ).toEqual([]);
});
