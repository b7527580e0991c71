import type { Bench, RowMeasurement, Scenario } from '../bench.ts';
import { interleave, ratios } from '../interleave.ts';
import { postRequest } from '../load/http-request.ts';
import { bearer, betterAuthSlot, keyledgerSlot } from './slots.ts';

const DOCUMENT =
  'mutation Verify($input: VerifyApiKeyInput!) { verifyApiKey(input: $input) { valid code message keyId requestId position } }';

/** The same question through GraphQL, with variables, as a client with a prepared document asks it. */
export const graphql: Scenario = {
  name: 'graphql',
  async run(bench: Bench): Promise<readonly RowMeasurement[]> {
    const ledger = await bench.ledger();
    const betterAuth = await betterAuthSlot(bench);
    const server = await bench.keyledger(ledger);
    const plain = keyledgerSlot(ledger, [server]);
    const requests = ledger.keys.map(({ secret }) => {
      const variables = { input: { key: secret, endpoint: 'GET /v1/models', ip: '203.0.113.7' } };
      return postRequest('/graphql', JSON.stringify({ query: DOCUMENT, variables }), {
        ...bearer(ledger.gatewayToken),
        accept: 'application/json',
      });
    });
    const detail = await interleave(bench, { graphql: { ...plain, name: 'verifyApiKey', requests: [requests] }, http: plain, betterAuth });
    await server.stop();
    return [{ row: 'graphql', values: ratios(detail.graphql, detail.betterAuth, ({ perSecond }) => perSecond), detail }];
  },
};
