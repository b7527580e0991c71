import ipaddr from 'ipaddr.js';

import { parsePeppers, type PepperKey } from './identity/pepper-key.ts';
import { Secret } from './lib/secret.ts';

const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export type Config = {
  readonly host: string;
  readonly port: number;
  /** Undefined: keyledger starts its own Postgres below `dataDir`. */
  readonly databaseUrl: Secret | undefined;
  /** The login that owns the tables; the same as `databaseUrl` unless set. */
  readonly migrationDatabaseUrl: Secret | undefined;
  readonly databasePoolSize: number;
  readonly dataDir: string;
  readonly bootstrapToken: Secret | undefined;
  /** The first is current. Undefined only where the embedded Postgres is used: see `loadOrCreatePepper`. */
  readonly keyPeppers: readonly PepperKey[] | undefined;
  readonly oidc: OidcSettings | undefined;
  /** CIDRs whose `X-Forwarded-*` headers are believed. */
  readonly trustedProxies: readonly string[];
  /** Origins that a browser may come from; `*` for all. */
  readonly allowedOrigins: readonly string[];
  /** Changes of one key an hour; 0 for no limit. */
  readonly keyOperationsPerHour: number;
  /** CIDRs of addresses that webhooks may go to though they are not public. */
  readonly webhookAllowPrivate: readonly string[];
  readonly logLevel: LogLevel;
  /** How long a stopping server waits for requests that are under way. */
  readonly shutdownGraceSeconds: number;
  /** The largest GraphQL request. */
  readonly maxBodyBytes: number;
  /** The largest `POST /v1/usage`. */
  readonly maxUsageBodyBytes: number;
};

export type OidcSettings = {
  readonly issuer: string;
  readonly audience: string;
  readonly organizationClaim: string;
  readonly roleClaim: string;
};

/** The settings can't be used. `faults` are whole sentences, one for each, none with a secret in it. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  readonly faults: readonly string[];
  constructor(faults: readonly string[]) {
    super(
      faults.length === 1
        ? (faults[0] ?? '')
        : `${faults.length} settings can't be used:\n${faults.map((fault) => `- ${fault}`).join('\n')}`,
    );
    this.faults = faults;
  }
}

/**
 * Reads every setting of the process from its environment. An empty variable counts as unset. Throws a {@link ConfigError} with all faults at once.
 * `needsPeppers: false` is for commands that verify no key: they need no KEY_PEPPERS beside a DATABASE_URL.
 */
export function readConfig(env: NodeJS.ProcessEnv, { needsPeppers = true }: { readonly needsPeppers?: boolean } = {}): Config {
  const faults: string[] = [];
  const text = (name: string) => {
    const value = env[name]?.trim();
    return value === '' ? undefined : value;
  };
  const fault = (name: string, wrong: string, right: string) => {
    faults.push(`${name} ${wrong}; ${right}.`);
    return undefined;
  };
  const integer = (name: string, fallback: number, min: number, max: number) => {
    const value = text(name);
    if (value === undefined) return fallback;
    const number = /^\d{1,15}$/.test(value) ? Number(value) : Number.NaN;
    if (number >= min && number <= max) return number;
    fault(name, `is ${JSON.stringify(value)}`, `it takes a whole number from ${min} to ${max}`);
    return fallback;
  };
  const list = (name: string) =>
    (text(name) ?? '')
      .split(',')
      .map((item) => item.trim())
      .filter((item) => item !== '');
  const postgresUrl = (name: string) => {
    const value = text(name);
    if (value === undefined) return undefined;
    const wrong = postgresUrlFault(value);
    return wrong === undefined
      ? new Secret(value)
      : fault(name, wrong, 'it takes postgres://user:password@host:port/database (with special characters percent-encoded)');
  };

  const databaseUrl = postgresUrl('DATABASE_URL');
  const migrationDatabaseUrl = postgresUrl('MIGRATION_DATABASE_URL');
  const external = text('DATABASE_URL') !== undefined;
  if (!external && text('MIGRATION_DATABASE_URL') !== undefined) {
    fault('MIGRATION_DATABASE_URL', 'is set without DATABASE_URL', 'set DATABASE_URL too, or neither to use the embedded Postgres');
  }

  const host = text('HOST') ?? '127.0.0.1';
  if (!ipaddr.isValid(host) && !/^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$/.test(host)) {
    fault(
      'HOST',
      `is ${JSON.stringify(host)}`,
      'it takes an address or a host name to listen on, without scheme and port, such as 127.0.0.1 or 0.0.0.0',
    );
  }

  const token = text('BOOTSTRAP_TOKEN');
  if (token !== undefined && token.length < 32)
    fault('BOOTSTRAP_TOKEN', `has ${token.length} characters`, 'it takes 32 at least, for example the output of: openssl rand -hex 32');
  if (token !== undefined && !/^[\x21-\x7e]*$/.test(token))
    fault('BOOTSTRAP_TOKEN', 'has a space or a character beyond ASCII', 'it takes printable ASCII without spaces');

  let keyPeppers: readonly PepperKey[] | undefined;
  const peppersText = text('KEY_PEPPERS');
  if (peppersText !== undefined) {
    const parsed = parsePeppers(peppersText);
    if ('peppers' in parsed) keyPeppers = parsed.peppers;
    else
      for (const wrong of parsed.faults)
        fault(
          'KEY_PEPPERS',
          `can't be read (${wrong})`,
          'it takes id:base64,… with 32 bytes at least each, for example p1:$(openssl rand -base64 32)',
        );
  } else if (external && needsPeppers) {
    fault(
      'KEY_PEPPERS',
      'is not set but DATABASE_URL is',
      'all servers of one database share it: id:base64,… with 32 bytes at least each, for example p1:$(openssl rand -base64 32)',
    );
  }

  const trustedProxies = list('TRUSTED_PROXIES');
  for (const cidr of trustedProxies) {
    if (!ipaddr.isValidCIDR(cidr))
      fault(
        'TRUSTED_PROXIES',
        `has ${JSON.stringify(cidr)} in it`,
        'it takes CIDRs such as 10.0.0.0/8,fd00::/8 (one address: 192.0.2.7/32)',
      );
  }

  const allowedOrigins = list('ALLOWED_ORIGINS');
  for (const origin of allowedOrigins) {
    if (origin !== '*' && !isOrigin(origin))
      fault(
        'ALLOWED_ORIGINS',
        `has ${JSON.stringify(origin)} in it`,
        'it takes origins such as https://console.example.com (scheme, host and port, no path), or *',
      );
  }

  const webhookAllowPrivate = text('WEBHOOK_ALLOW_PRIVATE') === 'true' ? ['0.0.0.0/0', '::/0'] : list('WEBHOOK_ALLOW_PRIVATE');
  for (const cidr of webhookAllowPrivate) {
    if (!ipaddr.isValidCIDR(cidr))
      fault(
        'WEBHOOK_ALLOW_PRIVATE',
        `has ${JSON.stringify(cidr)} in it`,
        'it takes CIDRs such as 10.0.0.0/8,fd00::/8 (one address: 192.0.2.7/32), or true for any address',
      );
  }

  const logLevel = LOG_LEVELS.find((level) => level === (text('LOG_LEVEL') ?? 'info'));
  if (logLevel === undefined) fault('LOG_LEVEL', `is ${JSON.stringify(text('LOG_LEVEL'))}`, `it takes one of ${LOG_LEVELS.join(', ')}`);

  const config: Config = {
    host,
    port: integer('PORT', 4000, 0, 65_535),
    databaseUrl,
    migrationDatabaseUrl: migrationDatabaseUrl ?? databaseUrl,
    databasePoolSize: integer('DATABASE_POOL_SIZE', 10, 2, 1_000),
    dataDir: text('DATA_DIR') ?? '.keyledger',
    bootstrapToken: token === undefined ? undefined : new Secret(token),
    keyPeppers,
    oidc: readOidc(text, fault),
    trustedProxies,
    allowedOrigins,
    keyOperationsPerHour: integer('KEY_OPERATIONS_PER_HOUR', 15, 0, 1_000_000),
    webhookAllowPrivate,
    logLevel: logLevel ?? 'info',
    shutdownGraceSeconds: integer('SHUTDOWN_GRACE_SECONDS', 25, 0, 3_600),
    maxBodyBytes: integer('MAX_BODY_BYTES', 1_048_576, 1_024, 67_108_864),
    maxUsageBodyBytes: integer('MAX_USAGE_BODY_BYTES', 16_777_216, 1_024, 268_435_456),
  };
  if (faults.length > 0) throw new ConfigError(faults);
  return config;
}

type Text = (name: string) => string | undefined;
type Fault = (name: string, wrong: string, right: string) => undefined;

function readOidc(text: Text, fault: Fault): OidcSettings | undefined {
  const issuer = text('OIDC_ISSUER');
  const audience = text('OIDC_AUDIENCE');
  if (issuer === undefined) {
    for (const name of ['OIDC_AUDIENCE', 'OIDC_ORGANIZATION_CLAIM', 'OIDC_ROLE_CLAIM']) {
      if (text(name) !== undefined) fault(name, 'is set without OIDC_ISSUER', 'set the issuer too, or none of them');
    }
    return undefined;
  }
  const wrong = issuerFault(issuer);
  if (wrong !== undefined) fault('OIDC_ISSUER', wrong, "it takes the issuer's https URL exactly as it stands in its tokens' iss");
  if (audience === undefined)
    fault(
      'OIDC_AUDIENCE',
      'is not set but OIDC_ISSUER is',
      'it takes the audience (aud) that tokens for keyledger carry; without it any token of the issuer would do',
    );
  return {
    issuer,
    audience: audience ?? '',
    organizationClaim: text('OIDC_ORGANIZATION_CLAIM') ?? 'organization',
    roleClaim: text('OIDC_ROLE_CLAIM') ?? 'role',
  };
}

function issuerFault(issuer: string): string | undefined {
  const url = URL.canParse(issuer) ? new URL(issuer) : undefined;
  if (url === undefined) return `is ${JSON.stringify(issuer)}, which is no URL`;
  if (url.search !== '' || url.hash !== '') return 'has a query or a fragment';
  const loopback = ['localhost', '127.0.0.1', '[::1]'].includes(url.hostname);
  if (url.protocol === 'https:' || (url.protocol === 'http:' && loopback)) return undefined;
  return `is ${JSON.stringify(issuer)}, not https (plain http only on loopback)`;
}

function isOrigin(origin: string): boolean {
  const url = URL.canParse(origin) ? new URL(origin) : undefined;
  return url !== undefined && (url.protocol === 'https:' || url.protocol === 'http:') && url.origin === origin.toLowerCase();
}

/** What is wrong with a database URL, in words without its password. */
function postgresUrlFault(value: string): string | undefined {
  if (!/^postgres(?:ql)?:\/\//.test(value)) return 'does not begin with postgres://';
  if (!URL.canParse(value)) return 'is no URL';
  const url = new URL(value);
  if (url.hostname === '' && !url.searchParams.has('host')) return 'names no host';
  if (url.pathname.length < 2) return 'names no database';
  return undefined;
}
