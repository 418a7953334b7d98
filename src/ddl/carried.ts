import { carriedColumns, formatTable, isSameTable } from '../core/link.ts'
import type { Workplace } from '../copy/workplace.ts'
import type { Dependent, Dialect, Transaction, Uncarried } from '../database/index.ts'
import { forwardLinks, type Migration } from '../definition/index.ts'
import { CrossfadeError } from '../errors/index.ts'
import { readDependents } from './dependents.ts'

/**
 * Nothing that hung on the old table is lost silently: what its successor lacks is said before anybody depends on it. A table that
 * stood before the migration, and takes no other's name, has an access of its own.
 * @throws `CUTOVER.NOT_CARRIED` naming each thing and the SQL that mends it.
 */
export async function assertCarried(
  { database }: Workplace,
  tx: Transaction,
  migration: Migration,
): Promise<void> {
  if (migration.kind === 'column') return // the table stays
  const lacking: Uncarried[] = []
  for (const link of forwardLinks(migration)) {
    const { table } = link.target
    const isOurs = migration.expand.tables.some((spec) => isSameTable(spec.table, table))
    if (!isOurs && migration.cutover.mode === 'flags') continue
    const found = await database.dialect.access.missing(tx, link.parts[0].table, table, carriedColumns(link))
    lacking.push(...found.map(({ what, mend }) => ({ what: `${formatTable(table)}: ${what}`, mend })))
  }
  if (migration.cutover.mode === 'swap') lacking.push(...(await strandedBy(database.dialect, tx, migration)))
  refuse(lacking)
}

/** What would go on with the old table after the exchange of names, or would not fit the new one. */
async function strandedBy(
  dialect: Dialect,
  tx: Transaction,
  { mappings, cutover }: Migration,
): Promise<Uncarried[]> {
  const stranded: Uncarried[] = []
  const found = await readDependents(
    tx,
    dialect,
    mappings.map(({ source, target }) => ({ table: source, successor: target })),
    cutover,
  )
  for (const [i, { source, target }] of mappings.entries()) {
    const dependents = found[i] ?? []
    const follow = dependents.filter(({ fate }) => fate === 'follows')
    stranded.push(...stuckOf(dependents), ...(await dialect.dependents.misfits(tx, follow, source, target)))
  }
  return stranded
}

const stuckOf = (dependents: readonly Dependent[]): Uncarried[] =>
  dependents.filter(({ fate }) => fate === 'stuck').map(({ name, mend }) => ({ what: name, mend }))

/** @throws `CUTOVER.NOT_CARRIED`: something has come since the gate that cannot be taken along. */
export function assertAllFollow(dependents: readonly Dependent[]): void {
  refuse(stuckOf(dependents))
}

function refuse(lacking: readonly Uncarried[]): void {
  if (lacking.length === 0) return
  throw new CrossfadeError({
    kind: 'refused',
    code: 'CUTOVER.NOT_CARRIED',
    message: `The new side lacks what the old one has: ${lacking.map(({ what }) => what).join('; ')}.`,
    mend: `${[...new Set(lacking.map(({ mend }) => mend))].join(' ')} Or take it from the old side; then resume.`,
    details: { lacking },
  })
}
