import type { Refusal } from '../domain/refusals.ts';
import { EXIT, type CliIo } from './command.ts';

/** Tells why a command was refused. Answers the exit code: 2 where the arguments were at fault, else 1. */
export function refused(io: CliIo, refusal: Refusal): number {
  io.err(`${refusal.message}.`);
  return refusal.code === 'INVALID_INPUT' ? EXIT.usage : EXIT.failed;
}
