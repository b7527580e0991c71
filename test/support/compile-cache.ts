import { fileURLToPath } from 'node:url';

/** Where Node keeps what it has compiled, so that each of the many processes of the tests is ready in half the time. */
export const COMPILE_CACHE = {
  NODE_COMPILE_CACHE: fileURLToPath(new URL('../../node_modules/.cache/node-compile-cache', import.meta.url)),
};
