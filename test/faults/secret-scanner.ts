/** A secret, with a name that a finding can be told by. */
export type Canary = { readonly name: string; readonly text: string };

const PIECE = 20;
const STEP = 10;

/**
 * Finds canaries in what a program left behind: whole, in pieces of 20 characters (what was cut off in the middle counts as well), and each of those as hex or
 * base64 of its bytes. `bytes` are a canary that isn't text.
 */
export function createSecretScanner(canaries: readonly Canary[], bytes: readonly { readonly name: string; readonly value: Buffer }[]) {
  const needles = [
    ...canaries.flatMap(({ name, text }) =>
      piecesOf(text).flatMap((piece) => formsOf(Buffer.from(piece), piece).map((form) => ({ name, form }))),
    ),
    ...bytes.flatMap(({ name, value }) => formsOf(value, value.toString('latin1')).map((form) => ({ name, form }))),
  ];
  return {
    /** The names of what stands in a text; bytes are to be given as latin1. */
    find(text: string): readonly string[] {
      const lower = text.toLowerCase();
      return [
        ...new Set(
          needles.filter(({ form }) => text.includes(form) || (/^[0-9a-f]+$/.test(form) && lower.includes(form))).map(({ name }) => name),
        ),
      ];
    },
  };
}

function piecesOf(text: string): readonly string[] {
  if (text.length <= PIECE) return [text];
  const starts = Array.from({ length: Math.floor((text.length - PIECE) / STEP) + 1 }, (_, index) => index * STEP);
  return [...starts, text.length - PIECE].map((start) => text.slice(start, start + PIECE));
}

function formsOf(value: Buffer, text: string): readonly string[] {
  // Base64 depends on where the value begins within three bytes; the characters that touch a neighbour are left out.
  const shifted = [0, 1, 2].map((shift) =>
    Buffer.concat([Buffer.alloc(shift), value])
      .toString('base64')
      .replace(/=+$/, '')
      .slice(shift === 0 ? 0 : shift + 1, -2),
  );
  return [text, value.toString('hex'), ...shifted, ...shifted.map((form) => form.replaceAll('+', '-').replaceAll('/', '_'))];
}
