import type { TableDescription } from '../database/index.ts'

/** What a plan relies on of one column of a source. The order of the fields is part of the plan's token. */
export type PlannedColumn = readonly [
  name: string,
  type: string,
  notNull: boolean,
  collation: string | null,
  generated: boolean,
]

/** What stands on a source beside its columns: each one's name and what it is. Not part of the plan's token. */
export type Facts = Readonly<Record<string, string>>

/** A source under the name of the definition, and its columns in order; null where it does not exist. */
export type PlannedTable = readonly [table: string, columns: readonly PlannedColumn[] | null]

export function plannedTable(table: string, found: TableDescription | undefined): PlannedTable {
  return [
    table,
    found?.columns.map(({ name, type, notNull, collation, generated }) => [
      name,
      type,
      notNull,
      collation ?? null,
      generated,
    ]) ?? null,
  ]
}

/** What changed, a line each: `users: column email: varchar(100) → varchar(200)`. Empty where nothing did. */
export function driftOf(planned: readonly PlannedTable[], now: readonly PlannedTable[]): string[] {
  const present = new Map(now)
  return planned.flatMap(([table, before]) => {
    const after = present.get(table) ?? null
    if (before === null || after === null)
      return before === after ? [] : [`${table} ${after === null ? 'is gone' : 'is new'}`]
    return columnLines(before, after).map((line) => `${table}: ${line}`)
  })
}

/**
 * What changed of what stands on the sources. A partition that is new is none: it is followed as it comes. Tables that no facts were
 * kept of are passed over.
 */
export function factDriftOf(
  kept: Readonly<Record<string, Facts>>,
  now: Readonly<Record<string, Facts>>,
): string[] {
  return Object.entries(kept).flatMap(([table, before]) => {
    const after = now[table] ?? {}
    const lines = Object.entries(before).flatMap(([label, was]) => {
      const is = after[label]
      if (is === undefined) return [`${label} is gone`]
      return was === is ? [] : [`${label}: ${was} → ${is}`]
    })
    const added = Object.keys(after)
      .filter((label) => before[label] === undefined && !label.startsWith('partition '))
      .map((label) => `${label} is new`)
    return [...lines, ...added].map((line) => `${table}: ${line}`)
  })
}

function columnLines(before: readonly PlannedColumn[], after: readonly PlannedColumn[]): string[] {
  const now = new Map(after.map((column) => [column[0], column]))
  const old = new Set(before.map(([name]) => name))
  const lines = before.flatMap((column) => {
    const [name] = column
    const changed = now.get(name)
    if (changed === undefined) return [`column ${name} is gone`]
    return columnChanges(column, changed).map((change) => `column ${name}: ${change}`)
  })
  const added = after
    .filter(([name]) => !old.has(name))
    .map(([name, type]) => `column ${name} ${type} is new`)
  const all = [...lines, ...added]
  const sameOrder = before.every(([name], i) => after[i]?.[0] === name)
  return all.length === 0 && !sameOrder ? ['the order of its columns changed'] : all
}

function columnChanges(before: PlannedColumn, after: PlannedColumn): string[] {
  const [, type, notNull, collation, generated] = before
  const [, typeNow, notNullNow, collationNow, generatedNow] = after
  const words = [
    [type, typeNow],
    [notNull ? 'NOT NULL' : 'nullable', notNullNow ? 'NOT NULL' : 'nullable'],
    [`collation ${collation ?? 'none'}`, `collation ${collationNow ?? 'none'}`],
    [generated ? 'generated' : 'not generated', generatedNow ? 'generated' : 'not generated'],
  ] as const
  return words.flatMap(([was, is]) => (was === is ? [] : [`${was} → ${is}`]))
}

/** A history carries the words. */
export const mostChanges = 10

export const shorten = (changes: readonly string[]): string =>
  `${changes.slice(0, mostChanges).join('; ')}${changes.length > mostChanges ? `; and ${changes.length - mostChanges} more` : ''}`
