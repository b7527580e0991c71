import type { Logger } from 'pino';

import type { Admission } from '../admission/admission.ts';
import type { KeyWindows } from '../admission/read-windows.ts';
import type { BalanceCommands } from '../commands/balance-commands.ts';
import type { AlertCommands } from '../commands/alert-commands.ts';
import type { ImportCommands } from '../commands/import-commands.ts';
import type { KeyCommands } from '../commands/key-commands.ts';
import type { OrganizationCommands } from '../commands/organization-commands.ts';
import type { ProfileCommands } from '../commands/profile-commands.ts';
import type { TokenCommands } from '../commands/token-commands.ts';
import type { Authenticate } from '../identity/authenticate.ts';
import type { KeyUses } from '../ledger/key-uses.ts';
import type { Tail } from '../ledger/tail.ts';
import type { Database } from '../postgres/pool.ts';
import type { WebhookCommands } from '../webhooks/webhook-commands.ts';
import type { GraphqlLimits } from './limits.ts';

/** What GraphQL is built on. */
export type GraphqlDependencies = {
  readonly database: Database;
  readonly keys: KeyCommands;
  readonly organizations: OrganizationCommands;
  readonly balances: BalanceCommands;
  readonly imports: ImportCommands;
  readonly tokens: TokenCommands;
  readonly alerts: AlertCommands;
  readonly webhooks: WebhookCommands;
  readonly profiles: ProfileCommands;
  readonly admission: Admission;
  /** What is left of the quotas and limits of keys, by their numbers. */
  readonly windows: (keyNumbers: readonly number[]) => Promise<ReadonlyMap<number, KeyWindows>>;
  /** Statistics were read, so that somebody waits for them to follow the log closely. */
  readonly onStatisticsRead?: () => void;
  readonly tail: Tail;
  readonly keyUses: KeyUses;
  readonly authenticate: Authenticate;
  readonly config: {
    /** Origins that a browser may come from, beside the server's own; `*` for all. */
    readonly allowedOrigins: readonly string[];
    readonly maxBodyBytes: number;
    readonly graphiql: boolean;
    /** What differs from DEFAULT_LIMITS. */
    readonly limits?: Partial<GraphqlLimits>;
  };
  readonly logger: Logger;
};
