import { carriedColumns, formatTable, isSameTable } from '../core/link.ts'
import type { Workplace } from '../copy/workplace.ts'
import type { Transaction, Uncarried } from '../database/index.ts'
import { forwardLinks, type Migration } from '../definition/index.ts'
import { CrossfadeError } from '../errors/index.ts'

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
  const lacking: Uncarried[] = []
  for (const link of forwardLinks(migration)) {
    const { table } = link.target
    const isOurs = migration.expand.tables.some((spec) => isSameTable(spec.table, table))
    if (!isOurs && migration.cutover.mode === 'flags') continue
    const found = await database.dialect.access.missing(tx, link.parts[0].table, table, carriedColumns(link))
    lacking.push(...found.map(({ what, mend }) => ({ what: `${formatTable(table)}: ${what}`, mend })))
  }
  if (lacking.length === 0) return
  throw new CrossfadeError({
    kind: 'refused',
    code: 'CUTOVER.NOT_CARRIED',
    message: `The old side has what the new one lacks: ${lacking.map(({ what }) => what).join('; ')}.`,
    mend: `${[...new Set(lacking.map(({ mend }) => mend))].join(' ')} Or take it from the old side; then resume.`,
    details: { lacking },
  })
}
