import { formatTable, isSameTable, type TableName } from '../core/link.ts'
import { tablesOf } from '../copy/groups.ts'
import { readDependents } from '../ddl/dependents.ts'
import type { Dependent, Dialect, Transaction, Uncarried } from '../database/index.ts'
import type { Migration } from '../definition/index.ts'
import type { Finding } from './checks.ts'

/** A source with what means it and not its name, and why its target could not take its place for some of that. */
export interface DependedOn {
  readonly source: TableName
  readonly dependents: readonly Dependent[]
  readonly misfits: readonly Uncarried[]
}

export async function readDependedOn(
  tx: Transaction,
  dialect: Dialect,
  migration: Migration,
): Promise<DependedOn[]> {
  if (migration.kind === 'column') return [] // the table stays; see column-checks.ts for its columns
  const { old } = tablesOf(migration)
  // A swap is one for one.
  const successorOf = (table: TableName): TableName =>
    migration.mappings.find(({ source }) => isSameTable(source, table))?.target ?? table
  const found = await readDependents(
    tx,
    dialect,
    old.map((table) => ({ table, successor: successorOf(table) })),
    migration.cutover,
  )
  const result: DependedOn[] = []
  for (const [i, source] of old.entries()) {
    const dependents = found[i] ?? []
    const follow = dependents.filter(({ fate }) => fate === 'follows')
    const target = successorOf(source)
    const spec = migration.expand.tables.find((table) => isSameTable(table.table, target))
    const misfits = await dialect.dependents.misfits(tx, follow, source, target, spec)
    result.push({ source, dependents, misfits })
  }
  return result
}

/** The exchange of names takes along what it can; what it cannot is refused now, and what stays with the old table is said. */
export function checkDependents(migration: Migration, found: readonly DependedOn[]): Finding[] {
  const isSwap = migration.kind === 'table' && migration.cutover.mode === 'swap'
  return [
    ...found.flatMap((source) => (isSwap ? swapFindings(source, migration.cutover) : flagsFindings(source))),
    ...(isSwap ? checkReferences(migration) : []),
  ]
}

const named = (dependents: readonly Dependent[]): string => dependents.map(({ name }) => name).join(', ')

function swapFindings(
  { source, dependents, misfits }: DependedOn,
  { triggers = {} }: Migration['cutover'],
): Finding[] {
  const name = formatTable(source)
  const warn = (rule: string, list: readonly Dependent[], message: string, mend: string): Finding[] =>
    list.length === 0 ? [] : [{ rule, severity: 'warning', message: `${message}: ${named(list)}.`, mend }]
  const of = (fate: Dependent['fate'], ...kinds: Dependent['kind'][]): Dependent[] =>
    dependents.filter((each) => each.fate === fate && kinds.includes(each.kind))
  return [
    ...dependents
      .filter(({ fate }) => fate === 'stuck')
      .map(({ name: what, mend }) => refusal(name, what, mend)),
    ...misfits.map(({ what, mend }) => refusal(name, what, mend)),
    ...warn(
      'swap-published',
      [...of('follows', 'publication'), ...of('stays', 'publication')],
      `Subscribers get the rows of the new table under the name ${name} from the swap on`,
      'Give their tables the new columns before; rows that they have are not sent again.',
    ),
    ...undeclared(name, of('stays', 'trigger'), triggers),
    ...warn(
      'swap-triggers',
      [...of('stays', 'trigger'), ...of('follows', 'trigger')].filter((each) => triggers[each.name]),
      `As cutover.triggers says, these triggers of ${name} go to the new table, or stay with the old one, where they fire for what is copied back`,
      'See that the functions of those that go name no column that is gone.',
    ),
    ...warn(
      'swap-left',
      of('stays', 'foreign key', 'setting'),
      `These stay with the old ${name}`,
      'Give the new table its own, in expand.tables or expand.sql.',
    ),
  ]
}

/** A trigger that does not fire any more is missed, and one that fires twice is, too; which it may be, only its author knows. */
const undeclared = (
  name: string,
  triggers: readonly Dependent[],
  declared: Readonly<Record<string, unknown>>,
): Finding[] =>
  triggers
    .filter((each) => declared[each.name] === undefined)
    .map((each) => ({
      rule: 'swap-trigger-undeclared',
      severity: 'refusal',
      message: `Nothing says what becomes of the trigger ${each.name} of ${name} when the names are exchanged.`,
      mend: `Say cutover.triggers: { ${JSON.stringify(each.name)}: "carry" } where the new table is to have it from then on, or "leave".`,
    }))

const refusal = (source: string, what: string, mend: string): Finding => ({
  rule: 'swap-dependents',
  severity: 'refusal',
  message: `After the exchange of names this would still mean the old ${source}: ${what}.`,
  mend,
})

/** These keep the old table from being dropped; a publication does not. */
function flagsFindings({ source, dependents }: DependedOn): Finding[] {
  const pointing = dependents.filter(({ fate }) => fate !== 'stays')
  if (pointing.length === 0) return []
  return [
    {
      rule: 'source-dependents',
      severity: 'warning',
      message: `${formatTable(source)} cannot be dropped, or is missed, while these point at it: ${named(pointing)}.`,
      mend: 'Move them to the new side before the contract, in contract.sql for instance.',
    },
  ]
}

/** A key of a new table that names a source would mean the old table after the swap. */
function checkReferences({ mappings, expand }: Migration): Finding[] {
  return expand.tables.flatMap(({ table, foreignKeys }) =>
    foreignKeys.flatMap(({ name, references }) => {
      const mapping = mappings.find(({ source }) => isSameTable(source, references.table))
      return mapping === undefined
        ? []
        : [
            {
              rule: 'swap-dependents',
              severity: 'refusal' as const,
              message: `The foreign key ${name} of ${formatTable(table)} references ${formatTable(references.table)}, which is the old table after the exchange of names.`,
              mend: `Let it reference ${formatTable(mapping.target)}.`,
            },
          ]
    }),
  )
}

/** What the exchange takes along, and the tables of foreign keys, which it locks too. */
export function followersOf(found: readonly DependedOn[]): { names: string[]; tables: string[] } {
  const followers = found.flatMap(({ dependents }) => dependents).filter(({ fate }) => fate === 'follows')
  return {
    names: followers.map(({ name }) => name),
    tables: [...new Set(followers.flatMap(({ table }) => (table === undefined ? [] : [formatTable(table)])))],
  }
}
