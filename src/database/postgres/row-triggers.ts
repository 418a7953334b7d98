import type { Pair } from '../../core/link.ts'
import { formatTable } from '../../core/link.ts'
import { CrossfadeError } from '../../errors/index.ts'
import type { ResolvedLink, Scope, SyncGroup, TriggerMode } from '../dialect.ts'
import type { Transaction } from '../database.ts'
import { quoteIdentifier, quoteList, quoteLiteral, quoteTable } from './identifiers.ts'
import {
  differs,
  digestOf,
  expressionOf,
  explainFollow,
  filledOf,
  isAuthoredFunction,
  pairsOf,
  definedName,
} from './in-row.ts'
import { functionName, keyNames, ourTable, triggerName } from './objects.ts'
import { note, read } from './journal.ts'
import { readsOf, rowShape, type RowShape } from './row-shape.ts'
import { applyingSetting } from './session.ts'
import { checkNames, createTriggerFunction, searchPath } from './trigger-function.ts'
import { toCrossfadeError } from './errors.ts'

/**
 * Sync within a row: one BEFORE trigger an event, fired last and for every session. It follows whichever side of a pair the
 * statement changed. Both changed: the primary side leads. What an expression cannot evaluate leaves the row's key in the change
 * log of its direction, and the statement succeeds.
 */

const events = ['insert', 'update'] as const

/** One row trigger follows both sides of a row, and nothing else of the group. */
export const isInRow = (group: SyncGroup): boolean => group.links[0].row !== undefined

/** Both directions over the rows of one table. */
interface Row {
  readonly scope: Scope
  readonly group: SyncGroup
  readonly there: ResolvedLink
  readonly back: ResolvedLink | undefined
  readonly shape: RowShape
  /** What the expressions of each pair read, forward. */
  readonly reads: readonly (readonly string[])[]
}

function directions(group: SyncGroup): { there: ResolvedLink; back: ResolvedLink | undefined } {
  const [link] = group.links
  const other = link.row?.other
  return group.direction === 'forward' ? { there: link, back: other } : { there: other ?? link, back: link }
}

const field = (row: 'NEW' | 'OLD', column: string): string => `${row}.${quoteIdentifier(column)}`

const record = (values: readonly string[]): string => `ROW(${values.join(', ')})::record`

/**
 * The row as a sub-select, so that expressions find their bare names. A BEFORE trigger sees generated columns as NULL: they are
 * computed here, as the server will compute them. https://www.postgresql.org/docs/18/ddl-generated-columns.html
 */
function asTable({ shape, there }: Row, row: 'NEW' | 'OLD'): string {
  const plain = shape.filter((column) => column.generated === undefined)
  const fields = plain
    .map(({ name }) => `${field(row, name)} AS ${quoteIdentifier(definedName(there, name))}`)
    .join(', ')
  const generated = shape.flatMap(({ name, generated: expression }) =>
    expression === undefined ? [] : [`(${expression}) AS ${quoteIdentifier(name)}`],
  )
  const given = `(SELECT ${fields}) AS _crossfade_given`
  return generated.length === 0
    ? `(SELECT ${fields}) AS _crossfade_t`
    : `(SELECT _crossfade_given.*, ${generated.join(', ')} FROM ${given}) AS _crossfade_t`
}

const keyOf = (row: Row, of: 'NEW' | 'OLD' = 'NEW'): string =>
  `SELECT ${quoteList(row.there.link.target.key.map((name) => definedName(row.there, name)))} FROM ${asTable(row, of)}`

const leaveKey = (row: Row, log: 'f' | 'r'): string => {
  const { id } = row.there.row ?? { id: '' }
  const names = keyNames(row.there.keyTypes.length).join(', ')
  const table = ourTable(row.scope, `changes_${id.replace('f', log)}`)
  return `INSERT INTO ${table} (kind, ${names}) SELECT 'c', _crossfade_c.* FROM (${keyOf(row)}) AS _crossfade_c;`
}

const given = (column: string): string => field('NEW', column)

const noteAuthored = (row: Row, pair: Pair): string => {
  const table = ourTable(row.scope, `authored_${row.there.row?.id ?? ''}`)
  return `INSERT INTO ${table} SELECT _crossfade_c.*, ${row.there.link.inRow?.indexOf(pair) ?? 0}, ${digestOf(row.there, pair, given)} FROM (${keyOf(row)}) AS _crossfade_c ON CONFLICT DO NOTHING;`
}

/** True where columns of the row changed; generated ones are computed for both states. */
function changed(row: Row, columns: readonly string[]): string {
  if (columns.length === 0) return 'false'
  const isPlain = columns.every(
    (name) => row.shape.find((column) => column.name === name)?.generated === undefined,
  )
  const state = (of: 'NEW' | 'OLD'): string =>
    isPlain
      ? record(columns.map((name) => field(of, name)))
      : `(SELECT ${record(columns.map((name) => quoteIdentifier(definedName(row.there, name))))} FROM ${asTable(row, of)})`
  return `${state('OLD')} *<> ${state('NEW')}`
}

/** A default says nothing: what an INSERT leaves out looks the same. One that gives another value each time counts as given. */
function isGiven({ shape }: Row, column: string): string {
  const fallback = shape.find(({ name }) => name === column)?.fallback
  const value = field('NEW', column)
  return fallback === undefined
    ? `${value} IS NOT NULL`
    : `(${value} IS NOT NULL AND ${record([value])} *<> ${record([`(${fallback})`])})`
}

const anyOf = (conditions: readonly string[], otherwise: string): string =>
  conditions.length === 0 ? otherwise : conditions.join(' OR ')

/** Fills one side of a pair from the other; what raises leaves the key. */
function fill(row: Row, link: ResolvedLink, pair: Pair, before = ''): string {
  const columns = filledOf(link, pair)
  return `BEGIN
      ${before}
      SELECT ${columns.map(expressionOf).join(', ')} INTO ${columns.map((column) => field('NEW', column.to)).join(', ')} FROM ${asTable(row, 'NEW')};
    EXCEPTION WHEN OTHERS THEN
      ${leaveKey(row, link === row.there ? 'f' : 'r')}
    END;`
}

/**
 * A statement that writes some of the new columns of a row that was never filled: the others are filled from the old side first, or
 * the way back would make that old side forget what they do not say yet.
 */
function fillOthers(row: Row, pair: Pair): string {
  const columns = filledOf(row.there, pair)
  if (columns.length < 2) return ''
  const wasEmpty = columns.map((column) => `${field('OLD', column.to)} IS NULL`).join(' AND ')
  const others = columns.map(
    (column) =>
      `IF ${field('NEW', column.to)} IS NULL THEN SELECT ${expressionOf(column)} INTO ${field('NEW', column.to)} FROM ${asTable(row, 'OLD')}; END IF;`,
  )
  return `IF TG_OP = 'UPDATE' THEN IF ${wasEmpty} THEN ${others.join(' ')} END IF; END IF;`
}

/** After the new side led: whether the old one says it. An expression that cannot be evaluated says nothing. */
function noteUnsaid(row: Row, pair: Pair): string {
  return `BEGIN
      SELECT ${differs(row.there, pair, given, expressionOf)} INTO _crossfade_unsaid FROM ${asTable(row, 'NEW')};
    EXCEPTION WHEN OTHERS THEN
      _crossfade_unsaid := true;
    END;
    IF _crossfade_unsaid THEN ${noteAuthored(row, pair)} END IF;`
}

function followPair(row: Row, pair: Pair, place: number): string {
  const { there, back } = row
  const fresh = pair.new.filter((name) => filledOf(there, pair).some((column) => column.to === name))
  const returned = back ? filledOf(back, pair).map((column) => column.to) : []
  const reads = [...new Set([...(row.reads[place] ?? []), ...pair.old])]
  const { key } = there.link.target
  const wasAuthored = `${isAuthoredFunction(there)}(${[...key.map((name) => field('OLD', name)), place, digestOf(there, pair, given)].join(', ')})`
  return `IF TG_OP = 'INSERT' THEN
    _crossfade_new := ${anyOf(
      fresh.map((name) => `${field('NEW', name)} IS NOT NULL`),
      'false',
    )};
    _crossfade_old := ${anyOf(
      returned.map((name) => isGiven(row, name)),
      'NOT _crossfade_new',
    )};
    IF NOT _crossfade_new AND NOT _crossfade_old THEN
      SELECT primary_side = 'old' INTO _crossfade_old FROM ${ourTable(row.scope, 'state')};
    END IF;
  ELSE
    _crossfade_new := ${changed(row, fresh)};
    _crossfade_old := ${changed(row, reads)};
    IF NOT _crossfade_new AND NOT _crossfade_old AND ${changed(row, key)} AND ${wasAuthored} THEN
      ${noteAuthored(row, pair)}
    END IF;
  END IF;
  _crossfade_back := _crossfade_new AND NOT _crossfade_old;
  IF _crossfade_new AND _crossfade_old THEN
    SELECT primary_side = 'new' INTO _crossfade_back FROM ${ourTable(row.scope, 'state')};
    -- What an INSERT gives on both sides stays as it is given.
    IF TG_OP = 'INSERT' AND NOT _crossfade_back THEN
      _crossfade_old := false;
      ${noteUnsaid(row, pair)}
    END IF;
  END IF;
  IF _crossfade_back THEN
    ${back && returned.length > 0 ? fill(row, back, pair, fillOthers(row, pair)) : ''}
    ${noteUnsaid(row, pair)}
  ELSIF _crossfade_old THEN
    ${fill(row, there, pair)}
  END IF;`
}

const copyBody = (row: Row): string => `#variable_conflict use_column
DECLARE _crossfade_new boolean; _crossfade_old boolean; _crossfade_back boolean; _crossfade_unsaid boolean;
BEGIN
  ${pairsOf(row.there)
    .map((pair, place) => followPair(row, pair, place))
    .join('\n  ')}
  RETURN NEW;
END`

/** Names nothing but the key: the old columns are renamed while it stands. */
function watchBody({ scope, there }: Row): string {
  const names = keyNames(there.keyTypes.length).join(', ')
  const key = there.link.target.key.map((name) => field('NEW', name)).join(', ')
  return `BEGIN
  INSERT INTO ${ourTable(scope, `changes_${there.row?.id ?? ''}`)} (kind, ${names}) VALUES ('c', ${key});
  RETURN NULL;
END`
}

/** Our own writes have followed already. */
const notOurs = (scope: Scope): string =>
  `current_setting('${applyingSetting}', true) IS DISTINCT FROM ${quoteLiteral(scope.migration)}`

/** The columns whose change the trigger has to look at; a statement that changes others does not call it. */
function heeded({ there, shape, reads }: Row): string[] {
  const plain = shape.filter((column) => column.generated === undefined).map(({ name }) => name)
  const pairs = pairsOf(there)
  const named = new Set([
    ...reads.flat(),
    ...pairs.flatMap((pair) => [...pair.old, ...pair.new]),
    ...there.link.target.key,
  ])
  // What a generated column is made of, the server alone knows.
  return [...named].every((name) => plain.includes(name)) ? [...named] : plain
}

function triggerSql(row: Row, mode: TriggerMode): string[] {
  const { scope, group } = row
  const table = quoteTable(row.there.link.target.table)
  const old = pairsOf(row.there).flatMap((pair) => pair.old)
  if (mode === 'watch' && old.length === 0) return []
  const columns = mode === 'copy' ? heeded(row) : old
  const update = `${record(columns.map((name) => field('OLD', name)))} *<> ${record(columns.map((name) => field('NEW', name)))}`
  const conditions = {
    insert:
      mode === 'copy' ? [] : [`(${old.map((name) => `${field('NEW', name)} IS NOT NULL`).join(' OR ')})`],
    update: [update],
  }
  return events.flatMap((event) => {
    const name = quoteIdentifier(triggerName(scope, group, event))
    const when = [notOurs(scope), ...conditions[event]].join(' AND ')
    return [
      `DROP TRIGGER IF EXISTS ${name} ON ${table}`,
      `CREATE TRIGGER ${name} ${mode === 'copy' ? 'BEFORE' : 'AFTER'} ${event.toUpperCase()} ON ${table} FOR EACH ROW WHEN (${when}) ` +
        `EXECUTE FUNCTION ${quoteIdentifier(scope.schema)}.${quoteIdentifier(functionName(group, 0, 'row'))}()`,
      `ALTER TABLE ${table} ENABLE ALWAYS TRIGGER ${name}`,
    ]
  })
}

/** For both directions at once; a group of the other direction that comes later finds its trigger, and makes it again. */
export async function installRow(
  tx: Transaction,
  scope: Scope,
  group: SyncGroup,
  mode: TriggerMode,
): Promise<void> {
  const { there, back } = directions(group)
  const { table } = there.link.target
  const reads = mode === 'copy' ? await presentReads(tx, scope, there, back) : []
  const row: Row = { scope, group, there, back, reads, shape: await rowShape(tx, table) }
  const name = { schema: scope.schema, name: functionName(group, 0, 'row') }
  const body = mode === 'copy' ? copyBody(row) : watchBody(row)
  await tx.query(createTriggerFunction(name, body, await searchPath(tx), { lock_timeout: '0' }))
  const statements = triggerSql(row, mode)
  if (statements.length > 0) await tx.query(statements.join('; '))
}

/** What expressions read is asked once, while the columns have the names that the definition knows, and kept in the journal. */
async function presentReads(
  tx: Transaction,
  scope: Scope,
  there: ResolvedLink,
  back: ResolvedLink | undefined,
): Promise<string[][]> {
  const word = `reads ${there.row?.id ?? ''} `
  const kept = (await read(tx, scope)).find((line) => line.startsWith(word))
  const reads = kept
    ? (JSON.parse(kept.slice(word.length)) as string[][])
    : await readsOfPairs(tx, scope, there, back)
  if (!kept) await note(tx, scope, word + JSON.stringify(reads))
  const { renamed = {} } = there.row?.names ?? {}
  return reads.map((names) => names.map((name) => renamed[name] ?? name))
}

/** @throws `PLAN.MAPPING_REFUSED` where the expressions cannot be written to their columns, or read what does not follow them */
async function readsOfPairs(
  tx: Transaction,
  scope: Scope,
  there: ResolvedLink,
  back: ResolvedLink | undefined,
): Promise<string[][]> {
  const { table } = there.link.target
  const fresh = there.link.parts[0].columns.map((column) => column.to)
  const reads: string[][] = []
  for (const pair of pairsOf(there)) {
    const forward = await readsOf(tx, scope, table, filledOf(there, pair).map(expressionOf)).catch(
      refuse(there),
    )
    const reverse = back
      ? await readsOf(tx, scope, table, filledOf(back, pair).map(expressionOf)).catch(refuse(back))
      : []
    const own = forward.filter((name) => fresh.includes(name))
    if (own.length > 0)
      throw refused(there, `the expressions of ${pair.new.join(', ')} read the new column ${own.join(', ')}`)
    const foreign = reverse.filter((name) => fresh.includes(name) && !pair.new.includes(name))
    if (foreign.length > 0)
      throw refused(
        there,
        `the way back to ${pair.old.join(', ')} reads ${foreign.join(', ')}, which does not say that it replaces it`,
      )
    reads.push(forward)
  }
  for (const link of [there, ...(back ? [back] : [])]) await explainFollow(tx, link).catch(refuse(link))
  return reads
}

const refuse =
  (link: ResolvedLink) =>
  (error: unknown): never => {
    throw new CrossfadeError({
      ...toCrossfadeError(error, `The mapping ${link.link.id}`).toJSON(),
      kind: 'input',
      code: 'PLAN.MAPPING_REFUSED',
      mend: 'Correct the expressions of this mapping.',
    })
  }

const refused = (link: ResolvedLink, reason: string): CrossfadeError =>
  new CrossfadeError({
    kind: 'input',
    code: 'PLAN.MAPPING_REFUSED',
    message: `The mapping of ${formatTable(link.link.target.table)}: ${reason}.`,
    mend: 'Compute new columns from old ones only, and name in `replaces` what a new column is turned back into.',
  })

export async function removeRow(tx: Transaction, scope: Scope, group: SyncGroup): Promise<void> {
  const { there } = directions(group)
  const table = quoteTable(there.link.target.table)
  await tx.query(
    [
      ...events.map(
        (event) => `DROP TRIGGER IF EXISTS ${quoteIdentifier(triggerName(scope, group, event))} ON ${table}`,
      ),
      `DROP FUNCTION IF EXISTS ${quoteIdentifier(scope.schema)}.${quoteIdentifier(functionName(group, 0, 'row'))}() CASCADE`,
    ].join('; '),
  )
}

export const checkRow = (tx: Transaction, scope: Scope, group: SyncGroup): Promise<string[]> =>
  checkNames(
    tx,
    directions(group).there.link.target.table,
    events.map((event) => triggerName(scope, group, event)),
  )
