/** The text form of an `int8` as a bigint. `BigInt('')` is 0n, so the text is checked first. */
export function parseInt8(text: string): bigint {
  if (!/^-?\d+$/.test(text)) throw new TypeError(`not the text form of an int8: ${JSON.stringify(text)}`);
  return BigInt(text);
}

/** The text form of a one-dimensional `int8[]` (`{1,2,NULL}`) as bigints. */
export function parseInt8Array(text: string): (bigint | null)[] {
  const inner = /^\{(.*)\}$/.exec(text)?.[1];
  if (inner === undefined) throw new TypeError(`not the text form of an int8[]: ${JSON.stringify(text)}`);
  if (inner === '') return [];
  return inner.split(',').map((item) => (item === 'NULL' ? null : parseInt8(item)));
}
