import { badUserInput } from './client-error.ts';

/** Refuses a text to search for that holds what no text of the database can: it would fail there, and says nothing that a caller could want. */
export function refuseNul(field: string, text: string | null | undefined): void {
  if (text?.includes('\0') === true) throw badUserInput(`'${field}' must not contain a NUL character.`);
}
