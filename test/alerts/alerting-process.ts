import { createAlerting } from '../../src/alerts/create-alerting.ts';
import { Secret } from '../../src/lib/secret.ts';
import { openDatabase } from '../../src/postgres/pool.ts';

// A server's worth of alerting in a process that can be killed: `DATABASE_URL` and `APPLICATION_NAME` say where and as whom. Ends with its standard input.

const database = openDatabase({
  connectionString: new Secret(process.env['DATABASE_URL'] ?? ''),
  applicationName: process.env['APPLICATION_NAME'] ?? '',
  maxConnections: 10,
  onError: () => undefined,
});
const alerting = createAlerting({ database, pollMs: 20, onError: (error) => process.stderr.write(`${error.message}\n`) });
process.stdout.write('ready\n');
process.stdin.resume().once('end', () => {
  void alerting.stop().then(() => database.close());
});
