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
    const rename = (part: LinkPart, i: number): LinkPart => ({ ...part, table: parts[i] ?? part.table })
    const [driving, ...joined] = link.parts
    resolved.push(
      await dialect.catalog.resolveLink(tx, {
        ...link,
        parts: [rename(driving, 0), ...joined.map((part, i) => rename(part, i + 1))],
        target: { ...link.target, table: target ?? link.target.table },
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
  }
}

/** Every table of the old side and of the new, each once, by its name in the definition. */
export function tablesOf(migration: Migration): { readonly old: TableName[]; readonly new: TableName[] } {
  const distinct = (tables: readonly TableName[]): TableName[] => [
    ...new Map(tables.map((table) => [formatTable(table), table])).values(),
  ]
  return {
    old: distinct(migration.mappings.map(({ source }) => source)),
    new: distinct(migration.mappings.map(({ target }) => target)),
  }
}
