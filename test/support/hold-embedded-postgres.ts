/** A process that is killed by tests: starts the embedded Postgres of the data directory named, says so in one line of JSON, and stops it on SIGTERM. */
import { startEmbeddedPostgres } from '../../src/postgres/embedded.ts';

try {
  const server = await startEmbeddedPostgres({ dataDir: process.argv[2] ?? '', onLog: () => undefined });
  process.once('SIGTERM', () => {
    clearInterval(alive);
    void server.stop();
  });
  const alive = setInterval(() => undefined, 60_000);
  console.log(JSON.stringify({ pid: server.pid, ownerUrl: server.ownerUrl.reveal() }));
} catch (error) {
  console.log(JSON.stringify({ error: error instanceof Error ? error.message : String(error) }));
  process.exitCode = 1;
}
