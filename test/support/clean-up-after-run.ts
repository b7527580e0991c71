/** The process of `cleanUpIfKilled`: `node clean-up-after-run.ts container|cluster <target>`. Its standard input ends with the run, which says `done` if nothing is left to do. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';

import { endServerLeftBehind } from '../../src/postgres/embedded-takeover.ts';

const [kind = '', target = ''] = process.argv.slice(2);
if ((await text(process.stdin)) !== 'done') await remove();

async function remove(): Promise<void> {
  if (kind === 'cluster') {
    await endServerLeftBehind(join(target, 'postgres'), () => undefined);
    await rm(target, { recursive: true, force: true });
  } else if (kind === 'container') {
    const { getContainerRuntimeClient } = await import('testcontainers');
    const engine = await getContainerRuntimeClient();
    await engine.container.getById(target).remove({ force: true, v: true });
  } else throw new Error(`neither container nor cluster: ${kind}`);
}
