/** The limits that are held against a window, as the contract states them, independently of how the product keeps them. */
export type WindowRule =
  | 'key_minute'
  | 'key_tokens'
  | 'total'
  | 'daily'
  | 'weekly'
  | 'monthly'
  | 'organization_second'
  | 'organization_minute';

export type Caps = Partial<Readonly<Record<WindowRule, number>>>;

/** One verification that was answered, as its caller and the log tell it. */
export type Answered = {
  readonly key: number;
  readonly organization: number;
  /** What was asked for, at least 1. */
  readonly cost: number;
  /** Null where it was granted. */
  readonly refusedBy: WindowRule | null;
  readonly position: bigint;
  readonly recordedAtUs: number;
  /** When it was asked and answered, by the clock of the process that asked. */
  readonly startMs: number;
  readonly endMs: number;
};

/** Tokens that usage was settled with. */
export type Charged = { readonly key: number; readonly tokens: number; readonly position: bigint; readonly atUs: number };

const SECOND_US = 1e6;
const HOUR_US = 3600 * SECOND_US;
const FOREVER = Number.POSITIVE_INFINITY;

/** Length of each window, and the sub-bucket that may return late. */
const WINDOWS: Readonly<Record<WindowRule, { readonly lengthUs: number; readonly slackUs: number }>> = {
  organization_second: { lengthUs: SECOND_US, slackUs: 50_000 },
  organization_minute: { lengthUs: 60 * SECOND_US, slackUs: SECOND_US },
  key_minute: { lengthUs: 60 * SECOND_US, slackUs: SECOND_US },
  key_tokens: { lengthUs: 60 * SECOND_US, slackUs: SECOND_US },
  total: { lengthUs: FOREVER, slackUs: 0 },
  daily: { lengthUs: 24 * HOUR_US, slackUs: HOUR_US / 2 },
  weekly: { lengthUs: 7 * 24 * HOUR_US, slackUs: 6 * HOUR_US },
  monthly: { lengthUs: 30 * 24 * HOUR_US, slackUs: 6 * HOUR_US },
};
const RULES = Object.keys(WINDOWS) as readonly WindowRule[];

export type History = {
  readonly answered: readonly Answered[];
  readonly charged: readonly Charged[];
  readonly keyCaps: ReadonlyMap<number, Caps>;
  readonly organizationCaps: ReadonlyMap<number, Caps>;
};

/**
 * Everything in a history that breaks the promise: a window (t-W, t] ending at a granted request that holds more than its cap; and a refusal at a moment at which the rule it
 * names had room even when everything of one sub-bucket more is counted, and everything that was asked for at the same time and took room.
 */
export function oracleFaults(history: History): readonly string[] {
  return [...overruns(history), ...needlessRefusals(history)];
}

function overruns({ answered, charged, keyCaps, organizationCaps }: History): readonly string[] {
  const faults: string[] = [];
  const granted = answered.filter((one) => one.refusedBy === null).sort((a, b) => a.recordedAtUs - b.recordedAtUs);
  for (const [scope, capsByNumber] of [
    ['key', keyCaps],
    ['organization', organizationCaps],
  ] as const) {
    for (const [number, caps] of capsByNumber) {
      const own = granted.filter((one) => one[scope] === number);
      for (const rule of RULES) {
        const cap = caps[rule];
        if (cap === undefined || rule === 'key_tokens') continue;
        let used = 0;
        let first = 0;
        own.forEach((one, index) => {
          used += one.cost;
          for (
            let oldest = own[first];
            oldest !== undefined && oldest.recordedAtUs <= one.recordedAtUs - WINDOWS[rule].lengthUs;
            oldest = own[++first]
          )
            used -= oldest.cost;
          // Of requests of one moment only the last one sees them all.
          if (used > cap && own[index + 1]?.recordedAtUs !== one.recordedAtUs) {
            faults.push(
              `${rule} of ${scope} ${number}: ${used} of ${cap} in the window that ends at ${one.recordedAtUs} (position ${one.position})`,
            );
          }
        });
      }
      const tokenCap = caps.key_tokens;
      if (tokenCap === undefined) continue;
      const charges = charged.filter((charge) => charge.key === number);
      for (const one of own) {
        const before = sum(charges, (charge) =>
          charge.position < one.position && charge.atUs <= one.recordedAtUs && charge.atUs > one.recordedAtUs - 60 * SECOND_US
            ? charge.tokens
            : 0,
        );
        if (before >= tokenCap)
          faults.push(
            `key_tokens of key ${number}: granted at position ${one.position} with ${before} of ${tokenCap} tokens in the minute before`,
          );
      }
    }
  }
  return faults;
}

function needlessRefusals({ answered, charged, keyCaps, organizationCaps }: History): readonly string[] {
  const faults: string[] = [];
  for (const refused of answered) {
    const rule = refused.refusedBy;
    if (rule === null) continue;
    const scope = rule.startsWith('organization') ? 'organization' : 'key';
    const cap = (scope === 'key' ? keyCaps.get(refused.key) : organizationCaps.get(refused.organization))?.[rule];
    if (cap === undefined) {
      faults.push(`${rule} refused position ${refused.position}, whose ${scope} has no such limit`);
      continue;
    }
    const { lengthUs, slackUs } = WINDOWS[rule];
    const since = refused.recordedAtUs - lengthUs - slackUs;
    const used =
      rule === 'key_tokens'
        ? sum(charged, (charge) =>
            charge.key === refused.key && charge.position < refused.position && charge.atUs > since ? charge.tokens : 0,
          )
        : sum(answered, (other) => {
            if (other[scope] !== refused[scope] || other.recordedAtUs <= since) return 0;
            const atOnce = other.startMs < refused.endMs && other.endMs > refused.startMs;
            if (other.refusedBy === null) return other.position < refused.position || atOnce ? other.cost : 0;
            // What its organization had room for and its key refused holds that room until the batch is decided.
            return atOnce && scope === 'organization' && !other.refusedBy.startsWith('organization') ? other.cost : 0;
          });
    const needed = rule === 'key_tokens' ? 1 : refused.cost;
    if (used + needed <= cap)
      faults.push(`${rule} refused position ${refused.position} (cost ${refused.cost}) with ${used} of ${cap} used`);
  }
  return faults;
}

function sum<Item>(items: readonly Item[], amount: (item: Item) => number): number {
  let total = 0;
  for (const item of items) total += amount(item);
  return total;
}
