import { formatTable, type Link, type LinkPart, type TableName } from '../core/link.ts'
import type { Dialect, ResolvedLink, Scope, SyncGroup, Transaction } from '../database/index.ts'
import { forwardLinks, reverseLinks, type Migration } from '../definition/index.ts'

/** The migration's links as they can run now: with the tables' present names and the catalogue's types. */
export interface Groups {
  /** One a source table: all its targets are copied in one pass and share one change log. */
  readonly forward: readonly SyncGroup[]
  /** One a source table that has a way back. */
  readonly reverse: readonly SyncGroup[]
}

/** @throws `PLAN.TABLE_MISSING`, `PLAN.COLUMN_MISSING` */
export async function resolveGroups(
  tx: Transaction,
  dialect: Dialect,
  scope: Scope,
  migration: Migration,
): Promise<Groups> {
  const forward = await resolveAll(tx, dialect, scope, forwardLinks(migration))
  const bySource = new Map<string, ResolvedLink[]>()
  for (const resolved of forward) {
    const source = formatTable(resolved.link.parts[0].table)
    bySource.set(source, [...(bySource.get(source) ?? []), resolved])
  }
  const reverse = await resolveAll(tx, dialect, scope, reverseLinks(migration))
  return {
    forward: [...bySource.values()].map((links, i) => toGroup(`f${i + 1}`, links)),
    reverse: reverse.map((link, i) => toGroup(`r${i + 1}`, [link])),
  }
}

async function resolveAll(
  tx: Transaction,
  dialect: Dialect,
  scope: Scope,
  links: readonly Link[],
): Promise<ResolvedLink[]> {
  const resolved: ResolvedLink[] = []
  for (const link of links) {
    const [target, ...parts] = await dialect.catalog.locate(tx, scope, [
      link.target.table,
      ...link.parts.map((part) => part.table),
    ])
    const read = await dialect.catalog.locate(
      tx,
      scope,
      (link.dependsOn ?? []).map(({ table }) => table),
    )
    const renamed = <T extends { table: TableName; as?: string }>(place: T, now: TableName | undefined): T =>
      now === undefined || now.name === place.table.name
        ? { ...place, table: now ?? place.table }
        : { ...place, table: now, as: place.table.name }
    const rename = (part: LinkPart, i: number): LinkPart => renamed(part, parts[i])
    const [driving, ...joined] = link.parts
    resolved.push(
      await dialect.catalog.resolveLink(tx, {
        ...link,
        parts: [rename(driving, 0), ...joined.map((part, i) => rename(part, i + 1))],
        ...(link.dependsOn && {
          dependsOn: link.dependsOn.map((one, i) => ({ ...one, table: read[i] ?? one.table })),
        }),
        target: renamed(link.target, target),
      }),
    )
  }
  return resolved
}

function toGroup(id: string, links: readonly ResolvedLink[]): SyncGroup {
  const [first, ...others] = links as [ResolvedLink, ...ResolvedLink[]]
  return {
    id,
    direction: first.link.direction,
    links: [first, ...others],
    keyTypes: first.keyTypes,
    watched: first.link.parts.map(({ table, key }, i) => ({
      table,
      key,
      partitions: first.partitions[i] ?? [],
    })),
    dependencies: distinct(
      links.flatMap((resolved) => resolved.dependencies),
      ({ table, on }) => JSON.stringify([formatTable(table), on]),
    ),
  }
}

/** Every table of the old side and of the new, each once, by its name in the definition. */
export function tablesOf(migration: Migration): { readonly old: TableName[]; readonly new: TableName[] } {
  return {
    old: distinct(
      migration.mappings.map(({ source }) => source),
      formatTable,
    ),
    new: distinct(
      migration.mappings.map(({ target }) => target),
      formatTable,
    ),
  }
}

/** The tables that sources depend on and that are no source themselves: read and followed, never written. */
export function tablesBeside(migration: Migration): TableName[] {
  const old = new Set(tablesOf(migration).old.map(formatTable))
  const read = forwardLinks(migration).flatMap(({ dependsOn = [] }) => dependsOn.map(({ table }) => table))
  return distinct(read, formatTable).filter((table) => !old.has(formatTable(table)))
}

/** Everything that a group follows: what a lock on its tables has to name. */
export const followedTables = ({ watched, dependencies }: SyncGroup): TableName[] =>
  distinct(
    [...watched, ...dependencies].map(({ table }) => table),
    formatTable,
  )

const distinct = <T>(values: readonly T[], identity: (value: T) => string): T[] => [
  ...new Map(values.map((value) => [identity(value), value])).values(),
]
