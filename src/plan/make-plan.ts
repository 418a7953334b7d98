import { createHash } from 'node:crypto'
import { formatTable, isSameTable, type TableName } from '../core/link.ts'
import type { PlanSummary } from '../core/state.ts'
import { everyTable, tablesBeside, tablesOf } from '../copy/groups.ts'
import type { Workplace } from '../copy/workplace.ts'
import type { DdlStep, Dialect, TableDescription, Transaction } from '../database/index.ts'
import { fingerprint, forwardLinks, type Migration } from '../definition/index.ts'
import { columnSwaps, dropSteps, replacedColumns, retireSteps, valueSteps } from '../ddl/columns.ts'
import { completionSteps, earlySteps, foundationSteps } from '../ddl/expand-steps.ts'
import { isCrossfadeError } from '../errors/index.ts'
import { checkAccess } from './access.ts'
import {
  checkApplication,
  checkKeys,
  checkRowSecurity,
  checkServer,
  checkSource,
  checkSwap,
  checkTarget,
  warnings,
  type Finding,
} from './checks.ts'
import { checkCarried, checkColumns } from './column-checks.ts'
import { checkDependencies, checkReads } from './depends-on.ts'
import { checkDependents, followersOf, readDependedOn, type DependedOn } from './dependents.ts'
import { plannedTable, type PlannedTable } from './drift.ts'

export type { Finding } from './checks.ts'

/** Everything a person needs before saying yes. Making it changes nothing. */
export interface Plan {
  readonly summary: PlanSummary
  readonly findings: readonly Finding[]
  readonly server: string
  readonly fingerprint: string
  readonly steps: readonly PlannedStep[]
}

export interface PlannedStep {
  readonly phase: 'expand' | 'dual-write' | 'backfill' | 'cutover' | 'retire' | 'contract'
  readonly title: string
  readonly lock: string
  readonly sql: readonly string[]
}

/** Looks at the database in one read-only transaction (and in another one that takes everything back) and says what will happen, and what would go wrong. */
export async function makePlan(place: Workplace, migration: Migration): Promise<Plan> {
  const { database, scope } = place
  const { dialect } = database
  const uncarried = await checkCarried(database, migration)
  return database
    .transaction(
      async (tx) => {
        const version = await dialect.catalog.version(tx)
        const names = tablesOf(migration)
        const old = await describeAll(tx, dialect, names.old)
        const fresh = await describeAll(tx, dialect, names.new)
        const beside = await describeAll(tx, dialect, tablesBeside(migration))
        const constant = await describeAll(tx, dialect, constantTables(migration))
        const dependedOn = await readDependedOn(tx, dialect, migration)
        const findings = [
          ...checkServer(version),
          ...(await checkRights(
            tx,
            dialect,
            [...names.old, ...names.new, ...beside.map(({ table }) => table)],
            constantTables(migration),
          )),
          ...old.flatMap(({ table, found }) => checkSource(table, found)),
          ...checkApplication(migration),
          ...checkDependents(migration, dependedOn),
          ...(await checkAccess(tx, dialect, migration)),
          ...checkRowSecurity([...old, ...fresh, ...beside, ...constant].map(({ found }) => found)),
          ...migration.mappings.flatMap((mapping) => {
            const source = find(old, mapping.source)
            const target = find(fresh, mapping.target)
            const read = [...old, ...beside, ...constant]
            return [
              ...checkDependencies(dialect.mends, mapping, (table) => find(read, table)),
              ...checkTarget(migration, mapping, target),
              ...checkKeys(dialect.mends, migration, mapping, source, target),
            ]
          }),
          ...(await checkColumns(
            tx,
            dialect,
            scope,
            migration,
            old.flatMap(({ found }) => found ?? []),
          )),
          ...uncarried,
          ...(migration.cutover.mode === 'swap' ? checkSwap(migration) : []),
          ...(await checkExpressions(tx, dialect, migration, old)),
          ...warnings(
            migration,
            old.map(({ found }) => found),
          ),
        ]
        const steps = plannedSteps(dialect, migration, dependedOn, await placesNote(tx, dialect, migration))
        return {
          findings,
          server: version.text,
          fingerprint: fingerprint(migration),
          steps,
          summary: {
            token: tokenOf(migration, plannedTables(migration, [...old, ...beside])),
            strategy: strategyOf(migration),
            steps: steps
              .filter((step) => step.phase === 'expand' || step.phase === 'backfill')
              .map(({ title, lock }) => ({ title, lock })),
            tables: old.flatMap(({ found }) =>
              found
                ? [
                    {
                      table: formatTable(found.table),
                      rowsEstimated: found.rowsEstimated,
                      bytes: found.bytes,
                    },
                  ]
                : [],
            ),
            warnings: findings
              .filter((finding) => finding.severity === 'warning')
              .map((finding) => finding.message),
          },
        }
      },
      { readOnly: true },
    )
    .then((plan) => ({
      ...plan,
      steps: plan.steps.map((step) => ({
        ...step,
        sql: step.sql.map((sql) =>
          sql.replaceAll('_crossfade_<name>', scope.schema).replaceAll('<name>', scope.migration),
        ),
      })),
    }))
}

export interface Described {
  readonly table: TableName
  readonly found: TableDescription | undefined
}

async function describeAll(
  tx: Transaction,
  dialect: Dialect,
  tables: readonly TableName[],
): Promise<Described[]> {
  const described: Described[] = []
  for (const table of tables) described.push({ table, found: await dialect.catalog.describeTable(tx, table) })
  return described
}

const find = (described: readonly Described[], table: TableName): TableDescription | undefined =>
  described.find((entry) => isSameTable(entry.table, table))?.found

const constantTables = ({ mappings }: Migration): TableName[] =>
  mappings.flatMap(({ dependsOn = [] }) => dependsOn.flatMap((one) => ('constant' in one ? [one.table] : [])))

async function checkRights(
  tx: Transaction,
  dialect: Dialect,
  tables: readonly TableName[],
  readOnly: readonly TableName[],
): Promise<Finding[]> {
  return (await dialect.catalog.privileges(tx, tables, readOnly))
    .filter(({ isGranted }) => !isGranted)
    .map(({ grant }) => ({
      rule: 'missing-privilege',
      severity: 'refusal',
      message: `The role of the URL lacks a privilege.`,
      mend: `${grant};`,
    }))
}

/** Every expression is planned by the server itself, against the real table. */
async function checkExpressions(
  tx: Transaction,
  dialect: Dialect,
  migration: Migration,
  old: readonly Described[],
): Promise<Finding[]> {
  const findings: Finding[] = []
  for (const [i, link] of forwardLinks(migration).entries()) {
    const [part] = link.parts
    const source = find(old, part.table)
    const types = new Map(source?.columns.map((column) => [column.name, column.type]))
    const missing = part.key.filter((column) => !types.has(column))
    // Said by checkSource, checkKeys and checkRowSecurity.
    if (types.size === 0 || missing.length > 0 || source?.hidesRowsUntil !== undefined) continue
    try {
      const read = await dialect.catalog.explainLink(tx, {
        link,
        keyTypes: part.key.map((column) => types.get(column) ?? ''),
        keyOrders: part.key.map(() => undefined),
        partitions: [],
        dependencies: [],
        targetTypes: {},
      })
      const mapping = migration.mappings[i]
      if (mapping) findings.push(...checkReads(mapping, read))
    } catch (error) {
      if (!isCrossfadeError(error)) throw error
      findings.push({
        rule: 'mapping-refused',
        severity: 'refusal',
        message: error.message,
        mend: error.mend,
      })
    }
  }
  return findings
}

const of = (phase: PlannedStep['phase'], steps: readonly DdlStep[]): PlannedStep[] =>
  steps.map(({ title, lock, sql }) => ({ phase, title, lock, sql }))

const words = (phase: PlannedStep['phase'], title: string, lock: string): PlannedStep => ({
  phase,
  title,
  lock,
  sql: [],
})

const flagSteps = (
  dialect: Dialect,
  migration: Migration,
  tables: string,
  old: readonly string[],
): PlannedStep[] => [
  words('cutover', `Ramp reads by the flag ${migration.flags.readEnabled}`, 'none'),
  ...of('retire', valueSteps(dialect, migration)),
  words(
    'retire',
    `Make the new columns primary${old.length > 0 ? `; ${old.join(', ')} may be NULL from then on` : ''}`,
    `ACCESS EXCLUSIVE on ${tables} for an instant`,
  ),
]

/** What is not read by its key, and why; empty where everything is. */
async function placesNote(tx: Transaction, dialect: Dialect, migration: Migration): Promise<string> {
  const notes = new Set<string>()
  for (const { parts } of forwardLinks(migration)) {
    const [{ table, key }, ...joined] = parts
    if (joined.length > 0) continue
    const { order, reason } = await dialect.ranges.orderOf(tx, table, key, migration.backfill.order)
    if (order === 'physical') notes.add(`; ${formatTable(table)} in the order of its file: ${reason}`)
  }
  return [...notes].join('')
}

function plannedColumnSteps(dialect: Dialect, migration: Migration, places: string): PlannedStep[] {
  const tables = everyTable(migration).map(formatTable).join(', ')
  const old = replacedColumns(migration).map(({ column }) => column)
  const swaps = columnSwaps(migration)
  return [
    ...of('expand', foundationSteps(dialect, migration)),
    words(
      'expand',
      `Follow every change of ${tables} within its row, by a BEFORE trigger that fires last`,
      `SHARE ROW EXCLUSIVE on ${tables} for an instant: waits for running writers`,
    ),
    words(
      'backfill',
      `Fill the new columns of ${tables} in lanes${places}`,
      'the rows of a chunk, until it commits',
    ),
    ...of('backfill', completionSteps(dialect, migration)),
    ...(swaps.length > 0
      ? [
          ...of('cutover', valueSteps(dialect, migration)),
          words(
            'cutover',
            `Exchange the names of ${swaps.map((swap) => `${swap.old} and ${swap.new}`).join(', ')}; ${old.join(', ')} may be NULL from then on`,
            `ACCESS EXCLUSIVE for an instant on ${tables}, and on tables that foreign keys of these columns join to it`,
          ),
        ]
      : flagSteps(dialect, migration, tables, old)),
    words(
      'retire',
      'After the soak, stop following: the trigger goes, and defaults move to the new columns',
      `ACCESS EXCLUSIVE on ${tables} for an instant`,
    ),
    ...of('contract', retireSteps(dialect, migration)),
    ...(migration.contract.drop ? of('contract', dropSteps(dialect, migration)) : []),
  ]
}

function captureWords({ sync }: Migration, followed: string, sources: string): PlannedStep[] {
  const lock = `SHARE ROW EXCLUSIVE on ${sources} for an instant: waits for running writers`
  if (sync.method === 'trigger')
    return [
      words(
        'expand',
        `Capture every change of ${followed} by statement triggers`,
        lock.replace(sources, followed),
      ),
    ]
  return [
    words(
      'expand',
      `Make the functions by which the application captures its changes of ${sources}${sync.alsoTriggers ? ', and triggers that note the keys of whoever writes without it' : ''}`,
      sync.alsoTriggers ? lock : 'none on your tables',
    ),
    words('dual-write', 'Wait until every instance of the application captures what it writes', lock),
  ]
}

const followWords = ({ sync }: Migration, targets: string, sources: string): PlannedStep =>
  sync.method === 'trigger'
    ? words(
        'retire',
        `Follow ${targets} by statement triggers, so that ${sources} stays in step`,
        `SHARE ROW EXCLUSIVE on ${targets} for an instant`,
      )
    : words(
        'retire',
        `The application writes ${targets}, and ${sources} follows its commits`,
        'none on your tables',
      )

function plannedSteps(
  dialect: Dialect,
  migration: Migration,
  dependedOn: readonly DependedOn[],
  places: string,
): PlannedStep[] {
  if (migration.kind === 'column') return plannedColumnSteps(dialect, migration, places)
  const names = tablesOf(migration)
  const sources = names.old.map(formatTable).join(', ')
  const followed = [...names.old, ...tablesBeside(migration)].map(formatTable).join(', ')
  const targets = names.new.map(formatTable).join(', ')
  const follow = followersOf(dependedOn)
  return [
    ...of('expand', [...foundationSteps(dialect, migration), ...earlySteps(dialect, migration)]),
    ...captureWords(migration, followed, sources),
    words('backfill', `Copy ${sources} into ${targets} in lanes${places}`, 'none on source rows'),
    ...of('backfill', completionSteps(dialect, migration)),
    migration.cutover.mode === 'swap'
      ? words(
          'cutover',
          `Exchange the names of ${sources} and ${targets}${follow.names.length > 0 ? `, and take along ${follow.names.join(', ')}` : ''}`,
          `ACCESS EXCLUSIVE on ${['both', ...follow.tables].join(', ')} for an instant`,
        )
      : words('cutover', `Ramp reads by the flag ${migration.flags.readEnabled}`, 'none'),
    followWords(migration, targets, sources),
    words(
      'contract',
      `Rename ${sources} away${migration.contract.drop ? ', and drop it after the soak' : ''}`,
      `ACCESS EXCLUSIVE on ${sources} for an instant`,
    ),
  ]
}

function strategyOf(migration: Migration): string {
  if (migration.kind === 'column')
    return `expand/contract: new columns on the same table, row trigger, ${migration.cutover.mode === 'swap' ? 'atomic swap of column names' : 'ramp by flags'}`
  const targets = new Set(migration.mappings.map(({ target }) => formatTable(target))).size
  const sources = new Set(migration.mappings.map(({ source }) => formatTable(source))).size
  const shape = targets > sources ? `split into ${targets} tables` : 'move into a reshaped table'
  return `expand/contract: ${shape}, ${migration.sync.method} sync, ${migration.cutover.mode === 'swap' ? 'atomic swap of names' : 'ramp by flags'}`
}

/** Stands for this definition against these source columns: a changed definition or a changed schema has another one. */
export function tokenOf(migration: Migration, sources: readonly PlannedTable[]): string {
  return createHash('sha256')
    .update(fingerprint(migration))
    .update(JSON.stringify(sources))
    .digest('hex')
    .slice(0, 8)
}

/** What the migration itself adds to a source is no drift. */
export const plannedTables = (migration: Migration, old: readonly Described[]): PlannedTable[] =>
  old.map(({ table, found }) => {
    const own = migration.mappings.flatMap(({ source, target, columns }) =>
      isSameTable(source, target) && isSameTable(source, table) ? Object.keys(columns) : [],
    )
    const given = found && { ...found, columns: found.columns.filter(({ name }) => !own.includes(name)) }
    return plannedTable(formatTable(table), given)
  })
