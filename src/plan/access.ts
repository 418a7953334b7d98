import { carriedColumns, formatTable, isSameTable } from '../core/link.ts'
import type { Dialect, Lost, Transaction } from '../database/index.ts'
import { forwardLinks, type Migration } from '../definition/index.ts'
import type { Finding } from './checks.ts'

/** What expand cannot copy, and the gate before cutover would miss or never know of: said before anything begins. */
export async function checkAccess(
  tx: Transaction,
  { access }: Dialect,
  migration: Migration,
): Promise<Finding[]> {
  if (migration.kind === 'column') return [] // the table stays
  const findings: Finding[] = []
  for (const link of forwardLinks(migration)) {
    const { table } = link.target
    const isOurs = migration.expand.tables.some((spec) => isSameTable(spec.table, table))
    if (!isOurs && migration.cutover.mode === 'flags') continue
    const [{ table: source }] = link.parts
    const has = `which ${formatTable(table)} has not, or not as it is.`
    for (const lost of await access.lost(tx, source, carriedColumns(link)))
      findings.push({
        rule: 'access-lost',
        severity: severityOf(lost, migration),
        message: `Of ${formatTable(source)}, ${lost.what}, ${has}`,
        mend: `Give ${formatTable(table)} its own in expand.sql${lost.kind === 'policy' ? ', with the same name, command and roles' : ''}; or take it away: ${lost.mend}`,
      })
  }
  return findings
}

/** The gate asks for each policy. A statement of the definition may create it, which nobody can know before it runs. */
const severityOf = ({ kind }: Lost, { expand }: Migration): Finding['severity'] =>
  kind === 'policy' && expand.sql.length === 0 ? 'refusal' : 'warning'
