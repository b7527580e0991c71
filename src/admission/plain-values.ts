// Values written in the plainest way, which is nearly always the way they are: known without a schema.

const IPV4_PART = '(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)';
/** In the one spelling of an address. */
export const IPV4 = new RegExp(`^${IPV4_PART}(?:\\.${IPV4_PART}){3}$`);
export const REQUEST_ID = /^[\x21-\x7e]{1,128}$/;
/** Printable ASCII: no control character, no surrogate. */
export const TEXT = /^[\x20-\x7e]*$/;

export function matches(value: unknown, pattern: RegExp): value is string {
  return typeof value === 'string' && pattern.test(value);
}

export function isWhole(value: unknown, least: number, most: number): value is number {
  return Number.isInteger(value) && (value as number) >= least && (value as number) <= most;
}
