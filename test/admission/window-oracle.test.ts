import { expect, it } from 'vitest';

import { oracleFaults, type Answered, type Caps, type WindowRule } from './window-oracle.ts';

const DAY_US = 24 * 3600 * 1e6;
let positions = 0n;

function answered(recordedAtUs: number, cost: number, refusedBy: WindowRule | null = null, atMs = recordedAtUs): Answered {
  return { key: 1, organization: 9, cost, refusedBy, position: ++positions, recordedAtUs, startMs: atMs, endMs: atMs + 1 };
}

function faults(caps: Caps, answers: readonly Answered[]): readonly string[] {
  return oracleFaults({ answered: answers, charged: [], keyCaps: new Map([[1, caps]]), organizationCaps: new Map() });
}

it('the oracle finds a window above its cap, whose beginning does not belong to it', () => {
  expect(faults({ daily: 10 }, [answered(1, 6), answered(1 + DAY_US, 10)])).toEqual([]);
  expect(faults({ daily: 10 }, [answered(2, 6), answered(1 + DAY_US, 10)])).toEqual([expect.stringContaining('daily of key 1: 16 of 10')]);
  expect(faults({ daily: 10 }, [answered(5, 6), answered(5, 5)])).toHaveLength(1);
});

it('the oracle finds a refusal that nothing explains: not a full window, not a sub-bucket more, not what was asked for at the same time', () => {
  const minute = 60e6;
  expect(faults({ key_minute: 10 }, [answered(0, 8), answered(minute / 2, 3, 'key_minute')])).toEqual([]);
  expect(faults({ key_minute: 10 }, [answered(0, 8), answered(minute / 2, 2, 'key_minute')])).toHaveLength(1);
  expect(faults({ key_minute: 10 }, [answered(1, 8), answered(minute + 1e6, 3, 'key_minute')])).toEqual([]);
  expect(faults({ key_minute: 10 }, [answered(0, 8), answered(minute + 1e6, 3, 'key_minute')])).toHaveLength(1);
  expect(faults({ key_minute: 10 }, [answered(10, 5, 'key_minute', 10), answered(11, 6, null, 10)])).toEqual([]);
  expect(faults({ key_minute: 10 }, [answered(10, 5, 'key_minute', 10), answered(11, 6, null, 20)])).toHaveLength(1);
  expect(faults({ key_minute: 10 }, [answered(10, 5, 'daily')])).toEqual([expect.stringContaining('has no such limit')]);
});
