import { createHmac } from 'node:crypto';

import type { Secret } from '../lib/secret.ts';
import { signingKey } from './webhook-secret.ts';

export type SignedMessage = {
  /** Of the event: the same at each attempt, so that a receiver knows what it has seen. */
  readonly id: string;
  /** Of the attempt. */
  readonly at: Date;
  readonly body: string;
};

/**
 * The headers of Standard Webhooks 1.0.0 (https://www.standardwebhooks.com): HMAC-SHA-256 over `id.timestamp.body`, one signature for each secret, so that
 * while a secret is replaced a receiver that knows either accepts the message.
 */
export function signatureHeaders({ id, at, body }: SignedMessage, secrets: readonly Secret[]): Readonly<Record<string, string>> {
  const timestamp = String(Math.floor(at.getTime() / 1000));
  const signed = `${id}.${timestamp}.${body}`;
  const signatures = secrets.map((secret) => `v1,${createHmac('sha256', signingKey(secret)).update(signed).digest('base64')}`);
  return { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signatures.join(' ') };
}
