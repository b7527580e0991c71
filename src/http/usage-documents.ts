import { JSON_TYPE } from './media-type.ts';

export type Documents =
  | { readonly ok: true; readonly values: readonly unknown[] }
  | { readonly ok: false; readonly message: string; readonly index?: number };

/**
 * The items in a body: lines of JSON, or one JSON array, or a single object. Without a type, text that begins with `[` is an array and all else is lines, unless it is as a whole one object
 * over several lines. Blank lines are passed over. Messages quote nothing of the body.
 */
export function usageDocuments(text: string, type: string | undefined): Documents {
  if (type === JSON_TYPE || (type === undefined && text.trimStart().startsWith('['))) return whole(text);
  const lines = byLine(text);
  if (lines.ok || type !== undefined) return lines;
  const one = whole(text);
  return one.ok ? one : lines;
}

function whole(text: string): Documents {
  try {
    const value: unknown = JSON.parse(text);
    return { ok: true, values: Array.isArray(value) ? value : [value] };
  } catch {
    return { ok: false, message: 'The body is no JSON; send an array of items, or lines of JSON as application/x-ndjson.' };
  }
}

function byLine(text: string): Documents {
  const values: unknown[] = [];
  for (const [number, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue;
    try {
      values.push(JSON.parse(line));
    } catch {
      return { ok: false, message: `Line ${number + 1} is no JSON; send one item a line.`, index: values.length };
    }
  }
  return { ok: true, values };
}
