const NOT_ASCII = /[^\0-\x7f]/;

/**
 * A text message as one unmasked frame (RFC 6455, 5.2), in Latin-1, of which ASCII is the part that is UTF-8 as well; null for any other text and for what does not fit a length of 16 bits. Written to the connection
 * itself: without compression `ws` holds nothing back, so it comes between two of its frames, and costs one string instead of two buffers.
 */
export function plainFrame(text: string): string | null {
  const { length } = text;
  if (length > 0xffff || NOT_ASCII.test(text)) return null;
  if (length < 126) return `\x81${String.fromCharCode(length)}${text}`;
  return `\x81\x7e${String.fromCharCode(length >> 8, length & 0xff)}${text}`;
}
