import pg from 'pg';

type Callback = (error: Error | null | undefined, result?: pg.QueryResult) => void;

/** What node-postgres works out of the description of a result's columns. */
type Columns = { readonly fields: unknown; readonly _parsers: unknown; readonly _prebuiltEmptyResultObject: unknown };

/** Of node-postgres' own query what its types leave out; a test holds this version of it to that. */
type QueryParts = {
  name: string | undefined;
  values: unknown;
  types: pg.CustomTypesConfig | undefined;
  _result: Columns & { _types: pg.CustomTypesConfig | undefined };
  _accumulateRows: boolean;
  prepare(connection: pg.Connection): void;
  handleRowDescription(message: unknown): void;
};

const Query = pg.Query as unknown as new (text: string, values: undefined, callback: Callback) => pg.Submittable & QueryParts;

/** By statement, on each connection. */
const described = new WeakMap<pg.Connection, Map<string, Columns>>();

/**
 * A prepared statement whose columns are described once a connection and not each time it is run: a statement that has been prepared never changes its columns (Postgres refuses to run it then), and to
 * tell and read a dozen descriptions costs a server as much as to read the answer.
 */
export class DescribedQuery extends Query {
  #connection: pg.Connection | undefined;

  constructor({ name, text, values, types }: pg.QueryConfig & { readonly name: string }, callback: Callback) {
    // By its text alone: node-postgres copies a config property by property.
    super(text, undefined, callback);
    this.name = name;
    this.values = values;
    this.types = types;
    this._result._types = types;
  }

  override prepare(connection: pg.Connection): void {
    this.#connection = connection;
    const columns = described.get(connection)?.get(this.name ?? '');
    if (columns === undefined) return super.prepare(connection);
    Object.assign(this._result, columns);
    this._accumulateRows = true;
    super.prepare(withoutDescribe(connection));
  }

  override handleRowDescription(message: unknown): void {
    super.handleRowDescription(message);
    const connection = this.#connection;
    if (connection === undefined || this.name === undefined) return;
    const { fields, _parsers, _prebuiltEmptyResultObject } = this._result;
    const known = described.get(connection) ?? new Map<string, Columns>();
    described.set(connection, known.set(this.name, { fields, _parsers, _prebuiltEmptyResultObject }));
  }
}

const silent = new WeakMap<pg.Connection, pg.Connection>();

/** The connection, but that it asks for no description. */
function withoutDescribe(connection: pg.Connection): pg.Connection {
  let same = silent.get(connection);
  if (same === undefined) {
    same = Object.create(connection, { describe: { value: () => undefined } }) as pg.Connection;
    silent.set(connection, same);
  }
  return same;
}
