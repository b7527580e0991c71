import type { InputFieldMap, ObjectFieldsShape } from '@pothos/core';

import { ForbiddenError } from '../commands/authorization.ts';
import { allows, type Actor } from '../domain/actor.ts';
import type { Permission } from '../domain/permissions.ts';
import { isRefusal, MUTATION_REFUSALS, refusal, type MutationRefusalCode, type Refusal } from '../domain/refusals.ts';
import type { Builder, SchemaTypes } from './builder.ts';
import { actorOf, type GraphqlContext } from './context.ts';
import type { Enums } from './enums.ts';
import { idOf, splitMemberId, type IdType } from './global-id.ts';

type Types = PothosSchemaTypes.ExtendDefaultTypes<SchemaTypes>;

/** One object type for each code of the catalogue, which the unions of results are made of. */
export type RefusalTypes = ReturnType<typeof addRefusalTypes>;

export function addRefusalTypes(builder: Builder, enums: Enums) {
  const userError = builder.interfaceRef<Refusal>('UserError').implement({
    description: 'An expected failure of a mutation: nothing was changed.',
    fields: (t) => ({
      code: t.field({ type: enums.errorCode, resolve: (failure) => failure.code }),
      message: t.exposeString('message', { description: 'Says what to do about it.' }),
    }),
  });
  const typeOf = (code: MutationRefusalCode) =>
    builder.objectRef<Refusal>(pascalCase(code)).implement({
      description: `${MUTATION_REFUSALS[code]}.`,
      interfaces: [userError],
      fields: (t) => ({
        field: t.string({
          nullable: true,
          description: 'The path of the field in the input, such as `quotas.daily`.',
          resolve: (failure) => failure.field ?? null,
        }),
      }),
    });
  const types = Object.fromEntries((Object.keys(MUTATION_REFUSALS) as MutationRefusalCode[]).map((code) => [code, typeOf(code)]));
  return types as Record<MutationRefusalCode, ReturnType<typeof typeOf>>;
}

/** Every payload has the position of what was done. */
type Positioned = { readonly position: bigint };

export type MutationSpec<Result extends Positioned> = {
  /** Verb first, such as `createApiKey`. */
  readonly name: string;
  readonly description: string;
  /** Any of them; what else is needed the command decides. Asked before the input is looked at. */
  readonly permissions: readonly [Permission, ...Permission[]];
  /** False for those that change nothing and so need no idempotency key. */
  readonly idempotent?: false;
  readonly input: (t: PothosSchemaTypes.InputFieldBuilder<Types, 'InputObject'>) => InputFieldMap;
  /** Which fields of the input hold global ids, and of what; `list.*.field` is that field of each in a list. */
  readonly ids?: Readonly<Record<string, IdType>>;
  readonly refusals: readonly MutationRefusalCode[];
  /** What the payload has beside `position`. */
  readonly payload: ObjectFieldsShape<Types, Result>;
  /** The use case. The input's ids are plain ones here; everything else of it is still to be parsed. */
  readonly run: (actor: Actor, input: Readonly<Record<string, unknown>>, context: GraphqlContext) => Promise<Result | Refusal>;
};

/** Adds a mutation that takes one `input` and answers `union <Name>Result = <Name>Payload | …`. */
export function addMutation<Result extends Positioned>(builder: Builder, refusals: RefusalTypes, spec: MutationSpec<Result>): void {
  // Pothos can't follow a resolver's type through a type parameter; payload and run agree by MutationSpec's.
  addPositionedMutation(builder, refusals, spec as unknown as MutationSpec<Positioned>);
}

function addPositionedMutation(builder: Builder, refusals: RefusalTypes, spec: MutationSpec<Positioned>): void {
  const title = spec.name.charAt(0).toUpperCase() + spec.name.slice(1);
  const payload = builder.objectRef<Positioned>(`${title}Payload`).implement({
    fields: (t) => ({ position: t.field({ type: 'Position', resolve: ({ position }) => position }), ...spec.payload(t) }),
  });
  const input = builder.inputType(`${title}Input`, {
    fields: (t): InputFieldMap => ({
      ...spec.input(t),
      ...(spec.idempotent === false
        ? {}
        : {
            idempotencyKey: t.string({
              description:
                'A retry with the same key and input has no second effect and is answered as the first was; for an hour with its secret, too.',
            }),
          }),
    }),
  });
  const result = builder.unionType(`${title}Result`, {
    types: [payload, ...spec.refusals.map((code) => refusals[code])],
    resolveType: (value) => (isRefusal(value) ? refusals[value.code] : payload),
  });
  builder.mutationField(spec.name, (t) =>
    t.field({
      description: spec.description,
      type: result,
      authScopes: (_root, _args, { actor }) => {
        if (actor === null || spec.permissions.some((permission) => allows(actor, permission))) return actor !== null;
        throw new ForbiddenError(spec.permissions[0]);
      },
      args: { input: t.arg({ type: input, required: true }) },
      resolve: async (_root, args, context): Promise<Positioned | Refusal> => {
        const decoded = decodeIds(args.input as Readonly<Record<string, unknown>>, spec.ids ?? {}, actorOf(context));
        const outcome = isRefusal(decoded) ? decoded : await spec.run(actorOf(context), decoded, context);
        if (isRefusal(outcome) && !spec.refusals.includes(outcome.code)) {
          throw new Error(`${spec.name} refused with ${outcome.code}, which its result in src/graphql does not list.`, { cause: outcome });
        }
        return outcome;
      },
    }),
  );
}

function decodeIds(
  input: Readonly<Record<string, unknown>>,
  ids: Readonly<Record<string, IdType>>,
  actor: Actor,
): Readonly<Record<string, unknown>> | Refusal {
  let decoded: unknown = input;
  for (const [path, type] of Object.entries(ids)) {
    decoded = decodeAt(decoded, path.split('.'), [], (text, field) => decodeId(text, type, field, actor));
    if (isRefusal(decoded)) return decoded;
  }
  // What a path leads through is copied, never replaced by something else.
  return decoded as Readonly<Record<string, unknown>>;
}

type Decode = (text: string, field: string) => string | Refusal;

/** A copy of `value` whose texts at the path are decoded, or the first refusal on the way; anything else there is left for the command's own schema to refuse. */
function decodeAt(value: unknown, path: readonly string[], at: readonly string[], decode: Decode): unknown {
  const [step, ...rest] = path;
  if (step === undefined) return typeof value === 'string' ? decode(value, at.join('.')) : value;
  if (step === '*') {
    if (!Array.isArray(value)) return value;
    const items = value.map((item: unknown, index) => decodeAt(item, rest, [...at, String(index)], decode));
    return items.find(isRefusal) ?? items;
  }
  if (typeof value !== 'object' || value === null || !(step in value)) return value;
  const fields = value as Readonly<Record<string, unknown>>;
  const part = decodeAt(fields[step], rest, [...at, step], decode);
  return isRefusal(part) ? part : { ...fields, [step]: part };
}

function decodeId(text: string, type: IdType, field: string, actor: Actor): string | Refusal {
  const id = idOf(type, text);
  if (id === null) return refusal('INVALID_INPUT', `'${field}' is no id of the type ${type}`, field);
  if (type !== 'Member') return id;
  const { organizationId, memberId } = splitMemberId(id);
  return organizationId === actor.organizationId ? memberId : refusal('NOT_FOUND', 'There is no such member in your organization', field);
}

function pascalCase(code: string): string {
  return code.toLowerCase().replaceAll(/(?:^|_)([a-z])/g, (_, letter: string) => letter.toUpperCase());
}
