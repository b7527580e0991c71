/** The values that were asked for last, by their texts. */
export type Recent<Value> = {
  get(text: string): Value | undefined;
  set(text: string, value: Value): void;
};

/** What an entry counts beside its text, so that many short ones are no way around the limit. */
const ENTRY_LENGTH = 200;

/**
 * Keeps values whose texts were used lately and have `maxLength` characters in all, or twice as many at most: for values whose size goes by that of their texts. Two generations instead
 * of a list in order of use, so that finding one costs a look-up and no more: the young one becomes the old one when it is full, and what is used of the old one moves to the young.
 */
export function keepRecent<Value>(maxLength: number): Recent<Value> {
  let young = new Map<string, Value>();
  let old = new Map<string, Value>();
  let length = 0;

  function set(text: string, value: Value): void {
    if (text.length + ENTRY_LENGTH > maxLength) return;
    if (length + text.length + ENTRY_LENGTH > maxLength) {
      old = young;
      young = new Map();
      length = 0;
    }
    if (!young.has(text)) length += text.length + ENTRY_LENGTH;
    young.set(text, value);
  }

  return {
    get(text) {
      const value = young.get(text);
      if (value !== undefined) return value;
      const older = old.get(text);
      if (older !== undefined) set(text, older);
      return older;
    },
    set,
  };
}
