import { createHash } from 'node:crypto'
import { z } from 'zod'
import {
  formatTable,
  isSameTable,
  type Dependency,
  type Link,
  type LinkPart,
  type TableName,
} from '../core/link.ts'
import { parseDurationMs } from '../core/durations.ts'
import { CrossfadeError } from '../errors/index.ts'
import { canonicalJson } from './canonical-json.ts'
import { checkColumnKind, checkSync, checkTableKind, type Finding } from './kind-checks.ts'
import { pairsOf } from './pairs.ts'
import { definitionSchema, type DefinitionInput, type ParsedDefinition } from './schema.ts'

export type { DefinitionInput } from './schema.ts'

type Backfill = ParsedDefinition['backfill']
type Mapping = ParsedDefinition['mappings'][number]

/** A definition with every default filled in: plain JSON, the input of the workflow. */
export type Migration = Omit<ParsedDefinition, 'mappings' | 'flags' | 'backfill' | 'metrics' | '$schema'> & {
  readonly mappings: (Omit<Mapping, 'target'> & { readonly target: TableName })[]
  readonly flags: {
    readonly writeEnabled: string
    readonly readEnabled: string
    readonly backfillActive: string
  }
  readonly backfill: Backfill & { readonly rateLimitMs: number; readonly targetChunkMs: number }
  readonly metrics: ParsedDefinition['metrics'] & { readonly prefix: string }
}

/**
 * Checks a definition and returns it as it was written, so that a typed `migration.config.ts` reads as data.
 * @throws `DEFINITION.INVALID` naming every wrong path.
 * @example
 * export default defineMigration({ name: 'people', kind: 'table', mappings: [] })
 */
export function defineMigration(definition: DefinitionInput): DefinitionInput {
  resolveMigration(definition)
  return definition
}

/**
 * The definition with every default, ready to be a workflow's input.
 * @throws `DEFINITION.INVALID` with the path and what is wrong there, for every finding at once.
 */
export function resolveMigration(definition: unknown): Migration {
  const parsed = definitionSchema.safeParse(definition)
  if (!parsed.success) throw invalid(parsed.error.issues.flatMap((issue) => flattenIssue(issue, [])))
  const { $schema: _, ...value } = parsed.data
  const { name, backfill } = value
  const fast = backfill.profile === 'fast'
  const migration: Migration = {
    ...value,
    mappings: value.mappings.map((mapping) => ({ ...mapping, target: mapping.target ?? mapping.source })),
    flags: {
      writeEnabled: value.flags.writeEnabled ?? `${name}.new_schema_write`,
      readEnabled: value.flags.readEnabled ?? `${name}.new_schema_read`,
      backfillActive: value.flags.backfillActive ?? `${name}.backfill_active`,
    },
    backfill: {
      ...backfill,
      rateLimitMs: backfill.rateLimitMs ?? (fast ? 0 : 100),
      targetChunkMs: backfill.targetChunkMs ?? (fast ? 150 : 50),
    },
    metrics: { ...value.metrics, prefix: value.metrics.prefix ?? `db.migration.${name}` },
  }
  const findings = [
    ...(value.kind === 'column' ? checkColumnKind(value) : checkTableKind(value)),
    ...checkSync(value),
    ...crossChecks(migration),
  ]
  if (findings.length > 0) throw invalid(findings)
  return migration
}

/**
 * The identity of a definition: SHA-256 over its canonical JSON, defaults included. The order of settings does not count, that of
 * a key's columns does: it is the order of the copy.
 */
export function fingerprint(migration: Migration): string {
  const mappings = migration.mappings.map((mapping) => ({ ...mapping, key: Object.entries(mapping.key) }))
  return createHash('sha256')
    .update(canonicalJson({ ...migration, mappings }))
    .digest('hex')
}

/** The JSON Schema of a definition, for editors and for starting a migration from a JSON file. */
export function definitionJsonSchema(): object {
  return { $id: 'crossfade-migration.schema.json', ...z.toJSONSchema(definitionSchema, { io: 'input' }) }
}

function invalid(findings: readonly Finding[]): CrossfadeError {
  return new CrossfadeError({
    kind: 'input',
    code: 'DEFINITION.INVALID',
    message: [
      'The definition is not valid:',
      ...findings.map(({ path, problem }) => `  ${path}: ${problem}`),
    ].join('\n'),
    mend: `Correct ${findings[0]?.path ?? 'it'}; \`crossfade schema\` prints what a definition may hold.`,
    details: { findings },
  })
}

type Issue = z.core.$ZodIssue

/** A union's own message says nothing, and that of a wrong key as little; the issues within do. */
function flattenIssue(issue: Issue, above: PropertyKey[]): Finding[] {
  const path = [...above, ...issue.path]
  if (issue.code === 'invalid_union' && issue.errors.length > 0) {
    const deepest = [...issue.errors].sort((a, b) => depth(b) - depth(a))[0] ?? []
    if (depth(deepest) > 0) return deepest.flatMap((inner) => flattenIssue(inner, path))
    const expected = [
      ...new Set(issue.errors.flat().map((inner) => inner.message.replace(/^Invalid input: /, ''))),
    ]
    return [{ path: formatPath(path), problem: expected.join(', or ') }]
  }
  if (issue.code === 'invalid_key')
    return issue.issues.map((inner) => ({ path: formatPath(path), problem: inner.message }))
  return [{ path: formatPath(path), problem: issue.message }]
}

const depth = (issues: readonly Issue[]): number => Math.max(0, ...issues.map((issue) => issue.path.length))

function formatPath(path: readonly PropertyKey[]): string {
  if (path.length === 0) return '(the definition)'
  return path
    .map((part, i) => (typeof part === 'number' ? `[${part}]` : `${i > 0 ? '.' : ''}${String(part)}`))
    .join('')
}

/** A key column that a new one stands for is written on the way back as any other. */
const isReplaced = ({ columns = [] }: Migration['expand'], table: TableName, column: string): boolean =>
  columns.some((fresh) => isSameTable(fresh.table, table) && fresh.replaces?.includes(column))

/** What no single field can know. */
function crossChecks({ kind, mappings, cutover, expand, retire, contract }: Migration): Finding[] {
  const findings: Finding[] = []
  mappings.forEach((mapping, i) => {
    const at = `mappings[${i}]`
    const keyTargets = Object.values(mapping.key)
    if (new Set(keyTargets).size !== keyTargets.length)
      findings.push({ path: `${at}.key`, problem: 'names one target column twice' })
    for (const column of keyTargets)
      if (column in mapping.columns)
        findings.push({
          path: `${at}.columns.${column}`,
          problem: 'is filled by the key already; leave it out',
        })
    if (mapping.reverse !== false)
      for (const column of Object.keys(mapping.key))
        if (column in mapping.reverse.columns && !isReplaced(expand, mapping.source, column))
          findings.push({
            path: `${at}.reverse.columns.${column}`,
            problem: 'is filled by the key already; leave it out',
          })
    for (let j = 0; j < i; j++) {
      const other = mappings[j]
      if (!other) continue
      if (isSameTable(other.target, mapping.target))
        findings.push({
          path: `${at}.target`,
          problem: `is the target of mappings[${j}] too; one source drives a target, and the others are its dependsOn`,
        })
      if (
        isSameTable(other.source, mapping.source) &&
        Object.keys(other.key).join() !== Object.keys(mapping.key).join()
      )
        findings.push({
          path: `${at}.key`,
          problem: `must name the source's key columns in the same order as mappings[${j}].key`,
        })
      if (
        isSameTable(other.source, mapping.source) &&
        (other.reverse === false) !== (mapping.reverse === false)
      )
        findings.push({
          path: `${at}.reverse`,
          problem: `must be given for all mappings of ${formatTable(mapping.source)}, or be false for all`,
        })
    }
    mapping.dependsOn?.forEach(({ table }, d) => {
      if (mappings.some((other) => isSameTable(other.target, table)))
        findings.push({
          path: `${at}.dependsOn[${d}].table`,
          problem: 'is a target of this migration; read what that is made from',
        })
      if (cutover.mode === 'swap' && mappings.some((other) => isSameTable(other.source, table)))
        findings.push({
          path: `${at}.dependsOn[${d}].table`,
          problem: 'would mean another table after the exchange of names; use cutover.mode "flags"',
        })
    })
    if (mappings.some((other) => other !== mapping && isSameTable(other.source, mapping.target)))
      findings.push({
        path: `${at}.target`,
        problem: 'is a source of another mapping; run the two as migrations after each other',
      })
  })
  const sources = new Set(mappings.map((mapping) => formatTable(mapping.source)))
  if (cutover.mode === 'swap' && sources.size !== mappings.length)
    findings.push({
      path: 'cutover.mode',
      problem: 'swap exchanges names one for one; a split needs "flags"',
    })
  if (cutover.triggers !== undefined && (cutover.mode !== 'swap' || kind !== 'table'))
    findings.push({ path: 'cutover.triggers', problem: 'is for kind "table" with cutover.mode "swap"' })
  if (cutover.mode === 'swap' && mappings.some((mapping) => mapping.where !== undefined))
    findings.push({
      path: 'cutover.mode',
      problem: 'swap would hide the rows that a filter leaves behind; use "flags"',
    })
  for (const [i, table] of expand.tables.entries())
    if (!mappings.some((mapping) => isSameTable(mapping.target, table.table)))
      findings.push({ path: `expand.tables[${i}].table`, problem: 'is the target of no mapping' })
  for (const [path, value] of [
    ['retire.soak', retire.soak],
    ['contract.observe', contract.observe],
    ['contract.soak', contract.soak],
  ] as const)
    if (parseDurationMs(value) === undefined) findings.push({ path, problem: 'is no duration' })
  for (const [path, steps] of [
    ['expand.sql', expand.sql],
    ['contract.sql', contract.sql],
  ] as const)
    if (new Set(steps.map((step) => step.name)).size !== steps.length)
      findings.push({ path, problem: 'uses one step name twice' })
  return findings
}

const toPartColumns = (columns: Record<string, string | true>): LinkPart['columns'] =>
  Object.entries(columns).map(([to, expression]) =>
    expression === true ? { to, column: to } : { to, expression },
  )

const followedOf = (dependsOn: NonNullable<Migration['mappings'][number]['dependsOn']>): Dependency[] =>
  dependsOn.flatMap((dependency) =>
    'on' in dependency
      ? [
          {
            table: dependency.table,
            on: Object.entries(dependency.on).map(([column, driving]) => ({ column, driving })),
          },
        ]
      : [],
  )

const inRow = (migration: Migration, mapping: Migration['mappings'][number]): Pick<Link, 'inRow'> =>
  migration.kind === 'column' ? { inRow: pairsOf(migration, mapping) } : {}

/** One link a mapping, from the old side to the new. */
export function forwardLinks(migration: Migration): Link[] {
  const { mappings } = migration
  return mappings.map((mapping) => ({
    id:
      migration.kind === 'column'
        ? `${formatTable(mapping.source)}, old columns → new`
        : `${formatTable(mapping.source)} → ${formatTable(mapping.target)}`,
    direction: 'forward',
    ...inRow(migration, mapping),
    parts: [
      {
        table: mapping.source,
        key: Object.keys(mapping.key),
        columns: toPartColumns(mapping.columns),
        ...(mapping.where === undefined ? {} : { where: mapping.where }),
      },
    ],
    ...(mapping.dependsOn === undefined ? {} : { dependsOn: followedOf(mapping.dependsOn) }),
    target: { table: mapping.target, key: Object.values(mapping.key) },
  }))
}

/** One link a source, from the new side back: the first mapping's target drives, the others are joined by key. */
export function reverseLinks(migration: Migration): Link[] {
  const { mappings } = migration
  const bySource = new Map<string, typeof mappings>()
  for (const mapping of mappings) {
    const source = formatTable(mapping.source)
    bySource.set(source, [...(bySource.get(source) ?? []), mapping])
  }
  return [...bySource.values()].flatMap((group) => {
    const [first] = group
    if (!first) return []
    const parts = group.flatMap((mapping) =>
      mapping.reverse === false
        ? []
        : [
            {
              table: mapping.target,
              key: Object.values(mapping.key),
              columns: toPartColumns(mapping.reverse.columns),
            },
          ],
    )
    const [driving, ...joined] = parts
    if (!driving) return []
    return [
      {
        id:
          migration.kind === 'column'
            ? `${formatTable(first.source)}, new columns → old`
            : `${parts.map((part) => formatTable(part.table)).join(' + ')} → ${formatTable(first.source)}`,
        direction: 'reverse' as const,
        ...inRow(migration, first),
        parts: [driving, ...joined] as const,
        target: {
          table: first.source,
          key: Object.keys(first.key),
          ...(first.where === undefined ? {} : { scope: first.where }),
        },
      },
    ]
  })
}
