/** One object of a file, with the line that it begins on (or its place in an array), to be named where it is at fault. */
export type Entry = { readonly line: number } & ({ readonly value: unknown } | { readonly fault: string });

/** The objects of a text that is a JSON array, or has one JSON value a line. Blank lines count and are nothing. */
export function parseEntries(text: string): readonly Entry[] {
  const body = text.replace(/^\uFEFF/, '');
  if (body.trimStart().startsWith('[')) {
    const list = parseJson(body);
    if ('fault' in list) return [{ line: 1, fault: 'the array is no JSON' }];
    return Array.isArray(list.value)
      ? list.value.map((value: unknown, index) => ({ line: index + 1, value }))
      : [{ line: 1, fault: 'give a JSON array' }];
  }
  return body.split('\n').flatMap((line, index) => (line.trim() === '' ? [] : [{ line: index + 1, ...parseJson(line) }]));
}

function parseJson(text: string): { readonly value: unknown } | { readonly fault: string } {
  try {
    return { value: JSON.parse(text) as unknown };
  } catch {
    return { fault: 'this is no JSON' };
  }
}
