/** Micros as a decimal text with two places, or six where it is more exact than that. Money never becomes a float. */
export function formatMicros(micros: bigint): string {
  const digits = (micros < 0n ? -micros : micros).toString().padStart(7, '0');
  const fraction = digits.slice(-6);
  return `${micros < 0n ? '-' : ''}${digits.slice(0, -6)}.${fraction.endsWith('0000') ? fraction.slice(0, 2) : fraction}`;
}
