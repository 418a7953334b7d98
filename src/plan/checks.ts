import { formatTable, isSameTable, type TableName } from '../core/link.ts'
import type { Mends, ServerVersion, TableDescription } from '../database/index.ts'
import { newColumns } from '../ddl/columns.ts'
import type { Migration } from '../definition/index.ts'

/** What the plan found: a value, never thrown. A `refusal` keeps the migration from starting. */
export interface Finding {
  /** Kebab words; each has its paragraph in docs/reference/plan-rules.md. */
  readonly rule: string
  readonly severity: 'refusal' | 'warning'
  readonly message: string
  readonly mend: string
}

type Mapping = Migration['mappings'][number]

/** Our longest wait for a lock beside the application's statements: DDL. Copying waits 50 ms. */
const longestLockWaitMs = 200

export function checkServer(version: ServerVersion): Finding[] {
  const findings: Finding[] = []
  if (version.number < version.oldest.number)
    findings.push({
      rule: 'server-too-old',
      severity: 'refusal',
      message: `The server is ${version.text}; Crossfade needs ${version.oldest.text} or newer.`,
      mend: 'Upgrade the server first.',
    })
  if (version.deadlockTimeoutMs !== undefined && version.deadlockTimeoutMs <= longestLockWaitMs)
    findings.push({
      rule: 'deadlock-timeout-short',
      severity: 'warning',
      message: `deadlock_timeout is ${version.deadlockTimeoutMs} ms: in a deadlock with one of our locks the application could be chosen as the victim before we give way.`,
      mend: `Keep it above ${longestLockWaitMs} ms (the default is 1000) while migrations run.`,
    })
  return findings
}

export function checkSource(table: TableName, found: TableDescription | undefined): Finding[] {
  const name = formatTable(table)
  if (!found)
    return [
      {
        rule: 'source-missing',
        severity: 'refusal',
        message: `There is no table ${name}.`,
        mend: 'Correct mappings[].source; names are taken literally, without case folding.',
      },
    ]
  return checkFollowed(found, 'mappings[].source')
}

/** A table whose every change has to be captured; `setting` is where the definition names it. */
export function checkFollowed(found: TableDescription, setting: string): Finding[] {
  const name = formatTable(found.table)
  if (found.kind !== 'partitioned' && (found.kind !== 'table' || found.inheritors > 0))
    return [
      {
        rule: 'source-kind',
        severity: 'refusal',
        message: `${name} is ${found.kind === 'table' ? 'a table with inheritors' : `a ${found.kind}`}: statement triggers on it would not see every write.`,
        mend: `Name a plain or a partitioned table in ${setting}; for a partition, the table above it.`,
      },
    ]
  if (found.subscriptions.length > 0)
    return [
      {
        rule: 'source-subscribed',
        severity: 'refusal',
        message: `${name} is written by the subscription ${found.subscriptions.join(', ')}, whose apply worker fires no statement triggers: its changes would not be captured.`,
        mend: 'Migrate on the publisher, or take the table out of the publication first.',
      },
    ]
  const others = found.triggers.filter((trigger) => trigger.startsWith('_crossfade_'))
  if (others.length > 0)
    return [
      {
        rule: 'source-followed',
        severity: 'warning',
        message: `${name} is followed already by ${others.join(', ')}.`,
        mend: 'See `crossfade list`; end or abort the other migration if it was forgotten.',
      },
    ]
  return []
}

/** What a plan cannot see is said: whether everything that writes has been deployed with the library. */
export function checkApplication({ name, sync, mappings }: Migration): Finding[] {
  if (sync.method === 'trigger' || sync.alsoTriggers) return []
  const sources = [...new Set(mappings.map(({ source }) => formatTable(source)))].join(', ')
  return [
    {
      rule: 'application-captures',
      severity: 'warning',
      message: `The application captures its own changes of ${sources}: every service and script that writes there must be deployed with crossfade-db/app before dual-write begins. What is written without it is found only by verification.`,
      mend: `Deploy createCrossfade({ migration: '${name}' }) everywhere first; sync.alsoTriggers captures the others, too.`,
    },
  ]
}

export function checkTarget(
  migration: Migration,
  mapping: Mapping,
  found: TableDescription | undefined,
): Finding[] {
  const name = formatTable(mapping.target)
  const spec = migration.expand.tables.find((table) => isSameTable(table.table, mapping.target))
  if (!found && !spec && migration.expand.sql.length === 0)
    return [
      {
        rule: 'target-missing',
        severity: 'refusal',
        message: `There is no table ${name}, and nothing in expand creates it.`,
        mend: `Describe it in expand.tables, or create it in expand.sql.`,
      },
    ]
  const added = newColumns(migration).filter(({ table }) => isSameTable(table, mapping.target))
  const columns = found
    ? [...found.columns, ...added].map((column) => column.name)
    : spec
      ? Object.keys(spec.columns)
      : undefined
  if (columns === undefined) return []
  const missing = [...Object.values(mapping.key), ...Object.keys(mapping.columns)].filter(
    (column) => !columns.includes(column),
  )
  // A column of the same table may be one that expand.sql adds.
  const isLater = migration.kind === 'column' && migration.expand.sql.length > 0
  if (missing.length > 0 && !isLater)
    return [
      {
        rule: 'target-column-missing',
        severity: 'refusal',
        message: `${name} has no column ${missing.join(', ')}.`,
        mend: `Correct the mapping; the table has ${columns.join(', ')}.`,
      },
    ]
  return []
}

const covers = (columns: readonly string[], key: readonly string[]): boolean =>
  columns.length === key.length && key.every((column) => columns.includes(column))

/** Rows are found by key on both sides, so the key is unique, never NULL, and ordered alike. */
export function checkKeys(
  mends: Mends,
  migration: Migration,
  mapping: Mapping,
  source: TableDescription | undefined,
  target: TableDescription | undefined,
): Finding[] {
  const findings: Finding[] = []
  const key = Object.keys(mapping.key)
  const targetKey = Object.values(mapping.key)
  const name = formatTable(mapping.source)
  if (source) {
    const missing = key.filter((column) => !source.columns.some((found) => found.name === column))
    if (missing.length > 0)
      return [
        {
          rule: 'key-column-missing',
          severity: 'refusal',
          message: `${name} has no column ${missing.join(', ')}.`,
          mend: `Correct the key; the table has ${source.columns.map((column) => column.name).join(', ')}.`,
        },
      ]
    const index = source.uniqueIndexes.find((candidate) => covers(candidate.columns, key))
    if (!index)
      findings.push({
        rule: 'key-not-unique',
        severity: 'refusal',
        message: `No unique index of ${name} covers exactly (${key.join(', ')}).`,
        mend:
          source.uniqueIndexes.length > 0
            ? `Use one of ${source.uniqueIndexes.map((other) => `(${other.columns.join(', ')})`).join(', ')}.`
            : mends.index(source, key, { unique: true }),
      })
    else if (index.columns.join() !== key.join())
      findings.push({
        rule: 'key-order',
        severity: 'refusal',
        message: `The key of ${name} must be named in the order of its index ${index.name}.`,
        mend: `Write it as ${index.columns.join(', ')}.`,
      })
    const nullable = key.filter((column) =>
      source.columns.some((found) => found.name === column && !found.notNull),
    )
    if (nullable.length > 0)
      findings.push({
        rule: 'key-nullable',
        severity: 'refusal',
        message: `The key column ${nullable.join(', ')} of ${name} may be NULL: such a row cannot be found again.`,
        mend: mends.requireValues(mapping.source, nullable),
      })
    const arrays = key.filter((column) =>
      source.columns.some((found) => found.name === column && found.type.endsWith('[]')),
    )
    if (arrays.length > 0)
      findings.push({
        rule: 'key-array',
        severity: 'refusal',
        message: `The key column ${arrays.join(', ')} of ${name} is an array, and keys are handed over in arrays.`,
        mend: 'Use a unique index without it, or give the table a key of its own: a bigint identity is the plainest.',
      })
  }
  const spec = migration.expand.tables.find((table) => isSameTable(table.table, mapping.target))
  const unique = target
    ? target.uniqueIndexes.map((index) => index.columns)
    : spec
      ? [spec.primaryKey]
      : undefined
  if (unique && !unique.some((columns) => covers(columns, targetKey)))
    findings.push({
      rule: 'target-key-not-unique',
      severity: 'refusal',
      message: `No unique index of ${formatTable(mapping.target)} covers exactly (${targetKey.join(', ')}).`,
      mend: 'Make these columns its primary key.',
    })
  if (source && target)
    for (const [from, to] of Object.entries(mapping.key)) {
      const a = source.columns.find((column) => column.name === from)
      const b = target.columns.find((column) => column.name === to)
      if (a && b && a.collation !== b.collation)
        findings.push({
          rule: 'key-collation',
          severity: 'refusal',
          message: `The key columns ${from} and ${to} have different collations (${a.collation ?? 'default'}, ${b.collation ?? 'default'}): their orders differ.`,
          mend: `Give ${formatTable(mapping.target)}.${to} the collation of the source.`,
        })
    }
  return findings
}

export function checkSwap(migration: Migration): Finding[] {
  return migration.mappings
    .filter(({ source, target }) => source.schema !== target.schema)
    .map(({ source, target }) => ({
      rule: 'swap-schemas-differ',
      severity: 'refusal',
      message: `Swap exchanges names within one schema, but ${formatTable(source)} and ${formatTable(target)} are in two.`,
      mend: 'Create the target in the source’s schema, or use cutover.mode "flags".',
    }))
}

/** Our sessions run with row_security = off: what a policy would hide is an error there, so it is said before anything begins. */
export function checkRowSecurity(tables: readonly (TableDescription | undefined)[]): Finding[] {
  const each = new Map(tables.flatMap((found) => (found ? [[formatTable(found.table), found]] : [])))
  return [...each.values()].flatMap((found) =>
    found.hidesRowsUntil
      ? [
          {
            rule: 'row-security',
            severity: 'refusal' as const,
            message: `Row-level security of ${formatTable(found.table)} applies to the role of the URL: rows could be hidden from the copy.`,
            mend: found.hidesRowsUntil,
          },
        ]
      : [],
  )
}

/** A cautious pace for the estimate: what a gentle backfill makes on small machines. */
const rowsPerSecond = 10_000

export function warnings(
  migration: Migration,
  sources: readonly (TableDescription | undefined)[],
): Finding[] {
  const findings: Finding[] = []
  const warn = (rule: string, message: string, mend: string): void =>
    void findings.push({ rule, severity: 'warning', message, mend })
  if (!migration.safety.requireApproval)
    warn(
      'no-approvals',
      'Nobody is asked before any phase, the contract included.',
      'Leave safety.requireApproval true outside of tests.',
    )
  if (migration.mappings.some((mapping) => mapping.reverse === false))
    warn(
      'no-way-back',
      'Without a reverse mapping there is no way back without loss after retire.',
      'Give mappings[].reverse.',
    )
  const minutes = sources.reduce((sum, source) => sum + (source?.rowsEstimated ?? 0), 0) / rowsPerSecond / 60
  if (minutes > migration.safety.maxRuntimeMinutes)
    warn(
      'runtime-too-short',
      `The backfill is expected to work for about ${Math.ceil(minutes)} minutes, and safety.maxRuntimeMinutes is ${migration.safety.maxRuntimeMinutes}.`,
      'Raise it, or use profile "fast".',
    )
  return findings
}
