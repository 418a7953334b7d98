import { formatTable, isSameTable, type Link, type LinkPart, type TableName } from '../core/link.ts'
import type { Capture, Dialect, ResolvedLink, Scope, SyncGroup, Transaction } from '../database/index.ts'
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
  if (migration.kind === 'column') return inRowGroups(tx, dialect, scope, forward, reverse)
  const capture = captureOf(migration)
  return {
    forward: [...bySource.values()].map((links, i) => toGroup(`f${i + 1}`, links, capture)),
    reverse: await Promise.all(
      reverse.map(async (link, i) => {
        const id = `r${i + 1}`
        if (link.link.target.scope === undefined) return toGroup(id, [link], capture)
        const outside = await dialect.catalog.outside(tx, scope, id)
        return toGroup(id, [outside === undefined ? link : { ...link, outside }], capture)
      }),
    ),
  }
}

type RowLink = ResolvedLink & Required<Pick<ResolvedLink, 'row'>>

/** Both directions of a table know each other: one trigger follows whichever side of a row a statement changed. */
async function inRowGroups(
  tx: Transaction,
  dialect: Dialect,
  scope: Scope,
  forward: readonly ResolvedLink[],
  reverse: readonly ResolvedLink[],
): Promise<Groups> {
  const backOf = ({ link }: ResolvedLink): ResolvedLink | undefined =>
    reverse.find((other) => isSameTable(other.link.target.table, link.target.table))
  const rows: { there: RowLink; back: RowLink | undefined; i: number }[] = []
  for (const [i, link] of forward.entries()) {
    const names = await dialect.columns.names(tx, scope, link.link.target.table)
    const fixed = await dialect.columns.fixed(tx, link.link.target.table)
    const row = { id: `f${i + 1}`, schema: scope.schema, other: undefined, names, fixed }
    const other = backOf(link)
    const keyTypes = lastingKeyTypes(link)
    rows.push({
      there: { ...link, keyTypes, row },
      back: other && { ...other, keyTypes, row },
      i: i + 1,
    })
  }
  const joined = (link: RowLink, other: RowLink | undefined): RowLink => ({
    ...link,
    row: { ...link.row, other },
  })
  return {
    forward: rows.map(({ there, back, i }) => toGroup(`f${i}`, [joined(there, back)])),
    reverse: rows.flatMap(({ there, back, i }) => (back ? [toGroup(`r${i}`, [joined(back, there)])] : [])),
  }
}

const integers: readonly string[] = ['smallint', 'integer', 'bigint']

/**
 * A key whose column is replaced by a wider one is kept as that from the start: change logs outlive the exchange of names, and the
 * server compares integers of all widths with each other.
 */
function lastingKeyTypes({ link, keyTypes, targetTypes }: ResolvedLink): string[] {
  return keyTypes.map((type, i) => {
    const column = link.target.key[i] ?? ''
    const successors = (link.inRow ?? []).flatMap((pair) => (pair.old.includes(column) ? pair.new : []))
    return successors.reduce((widest, name) => {
      const other = targetTypes[name] ?? ''
      return integers.indexOf(other) > integers.indexOf(widest) && integers.includes(widest) ? other : widest
    }, type)
  })
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
    const { inRow, ...named } = link.inRow ? await presentColumns(tx, dialect, scope, link) : link
    const [driving, ...joined] = named.parts
    resolved.push(
      await dialect.catalog.resolveLink(tx, {
        ...named,
        ...(inRow ? { inRow } : {}),
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

/** Columns that a link within a row fills, under their present names; what its expressions read keeps the definition's. */
async function presentColumns(tx: Transaction, dialect: Dialect, scope: Scope, link: Link): Promise<Link> {
  const { renamed } = await dialect.columns.names(tx, scope, link.target.table)
  const now = (name: string): string => renamed[name] ?? name
  const [part] = link.parts
  return {
    ...link,
    inRow: (link.inRow ?? []).map((pair) => ({ old: pair.old.map(now), new: pair.new.map(now) })),
    parts: [{ ...part, columns: part.columns.map((column) => ({ ...column, to: now(column.to) })) }],
  }
}

const captureOf = ({ sync }: Migration): Capture =>
  sync.method === 'trigger' ? 'triggers' : sync.alsoTriggers === true ? 'both' : 'application'

function toGroup(id: string, links: readonly ResolvedLink[], capture: Capture = 'triggers'): SyncGroup {
  const [first, ...others] = links as [ResolvedLink, ...ResolvedLink[]]
  return {
    id,
    direction: first.link.direction,
    capture,
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

/** The groups of the other direction over the same source: their keys are the same. */
export function counterparts(groups: Groups, group: SyncGroup): readonly SyncGroup[] {
  const sourceOf = ({ direction, links: [{ link }] }: SyncGroup): TableName =>
    direction === 'forward' ? link.parts[0].table : link.target.table
  const others = group.direction === 'forward' ? groups.reverse : groups.forward
  return others.filter((other) => isSameTable(sourceOf(other), sourceOf(group)))
}

/** Every table that the migration touches, once, by its name in the definition. */
export const everyTable = (migration: Migration): TableName[] =>
  distinct(
    migration.mappings.flatMap(({ source, target }) => [source, target]),
    formatTable,
  )

/** The tables of the old side and of the new, each once; of kind `column` both are the same. */
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
