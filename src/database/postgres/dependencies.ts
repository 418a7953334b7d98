import type { Dependency } from '../../core/link.ts'
import type { Dialect, FollowedDependency, Scope, SyncGroup } from '../dialect.ts'
import { quoteIdentifier, quoteList, quoteTable } from './identifiers.ts'
import { keyNames, ourTable } from './objects.ts'

/**
 * Tables that a group's expressions read beside its source. A change of one of their rows leaves the values by which it is read,
 * not the keys that it touches: which those are is asked when the change is visible, so that a source row that was committed
 * meanwhile is found. A source row that is committed later has left its own key (docs/decisions/0016).
 */

/** The values of changed rows, one table a dependency. All of them NULL: every row changed. */
export const linkLog = (scope: Scope, group: SyncGroup, index: number): string =>
  ourTable(scope, `links_${group.id}_${index}`)

const valueNames = ({ on }: Dependency): string[] => on.map((_, i) => `v${i + 1}`)

export function createLinkLogs(scope: Scope, group: SyncGroup): string[] {
  return group.dependencies.map((dependency, index) => {
    const values = valueNames(dependency).map((name, i) => `${name} ${dependency.types[i]}`)
    return (
      `CREATE TABLE IF NOT EXISTS ${linkLog(scope, group, index)} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, ${values.join(', ')}, ` +
      `logged_at timestamptz NOT NULL DEFAULT clock_timestamp()) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, vacuum_truncate = false)`
    )
  })
}

/** Leaves the values of `rows`, a query of the dependency's columns in their order. A row with a NULL is read by nobody. */
export function logLinks(
  scope: Scope,
  group: SyncGroup,
  index: number,
  { on }: Dependency,
  rows: string,
): string {
  const values = on.map((_, i) => `v${i + 1}`)
  const columns = on.map(({ column }) => quoteIdentifier(column))
  const known = columns.map((column) => `_crossfade_c.${column} IS NOT NULL`).join(' AND ')
  return `INSERT INTO ${linkLog(scope, group, index)} (${values.join(', ')}) SELECT DISTINCT ${columns.map((column) => `_crossfade_c.${column}`).join(', ')} FROM (${rows}) AS _crossfade_c WHERE ${known};`
}

export const logEveryLink = (
  scope: Scope,
  group: SyncGroup,
  index: number,
  { types }: FollowedDependency,
): string =>
  `INSERT INTO ${linkLog(scope, group, index)} (${types.map((_, i) => `v${i + 1}`).join(', ')}) VALUES (${types.map((type) => `NULL::${type}`).join(', ')});`

/** A group whose source rows alone do not say what its targets hold. */
export const readsOthers = (group: SyncGroup): boolean =>
  group.dependencies.length > 0 || group.links.some(({ link }) => link.parts.length > 1)

const linked = ({ on }: Dependency, row: string, values: string): string =>
  on.map(({ driving }, i) => `${row}.${quoteIdentifier(driving)} = ${values}.v${i + 1}`).join(' AND ')

/**
 * Once the new side leads, its rows are its own: what they were made from is no reason to copy them again over what was written there.
 * The primary side moves with this log empty and its tables locked, so whoever sees a later entry sees that, too.
 */
const oldLeads = (scope: Scope): string => `(SELECT primary_side FROM ${ourTable(scope, 'state')}) = 'old'`

/** Of a change that came after that, or of a side that nobody follows any more. */
export const forgetLinks = (scope: Scope, group: SyncGroup): string[] =>
  group.dependencies.map((_, index) => `DELETE FROM ${linkLog(scope, group, index)}`)

/** Link values taken in one statement: enough that a burst is gone soon, few enough that the lock on them is short. */
const mostLinks = 1000

export const resolveDependencies: Dialect['changeLog']['resolveDependencies'] = async (tx, scope, group) => {
  const [watched] = group.watched
  if (!watched) return 0
  const log = ourTable(scope, `changes_${group.id}`)
  const keys = keyNames(group.keyTypes.length)
  const selected = `SELECT DISTINCT 'c'::"char", ${watched.key.map((column) => `_crossfade_d.${quoteIdentifier(column)}`).join(', ')} FROM ${quoteTable(watched.table)} AS _crossfade_d`
  let taken = 0
  for (const [index, dependency] of group.dependencies.entries()) {
    const links = linkLog(scope, group, index)
    const all = valueNames(dependency)
      .map((name) => `${name} IS NULL`)
      .join(' AND ')
    // One statement each: the snapshot that sees an entry sees what was committed with it, and reads the source.
    for (const [which, touched] of [
      [all, 'WHERE EXISTS (SELECT FROM _crossfade_l)'],
      [
        `NOT (${all})`,
        `JOIN _crossfade_l ON ${linked(dependency, '_crossfade_d', '_crossfade_l')} WHERE true`,
      ],
    ]) {
      const result = await tx.query(
        `WITH _crossfade_l AS (DELETE FROM ${links} WHERE id IN (SELECT id FROM ${links} WHERE ${which} ORDER BY id LIMIT ${mostLinks} FOR UPDATE SKIP LOCKED) RETURNING *), ` +
          `_crossfade_k AS (INSERT INTO ${log} (kind, ${quoteList(keys)}) ${selected} ${touched} AND ${oldLeads(scope)}) SELECT count(*) AS taken FROM _crossfade_l`,
      )
      taken += Number(result.rows[0]?.['taken'] ?? 0)
    }
  }
  return taken
}

/** How many changes of dependencies wait, and since when: a query of `id`, `logged_at` rows for each. */
export const waitingLinks = (scope: Scope, group: SyncGroup): string[] =>
  group.dependencies.map((_, index) => `SELECT logged_at FROM ${linkLog(scope, group, index)}`)

/** True for a key, held in `keys.k1…`, that a waiting change of a dependency touches. */
export function touchedByLinks(scope: Scope, group: SyncGroup, keys: string): string[] {
  const [watched] = group.watched
  if (!watched) return []
  const equal = watched.key
    .map((column, i) => `_crossfade_d.${quoteIdentifier(column)} = ${keys}.k${i + 1}`)
    .join(' AND ')
  return group.dependencies.flatMap((dependency, index) => {
    const links = linkLog(scope, group, index)
    return [
      `EXISTS (SELECT FROM ${links} WHERE v1 IS NULL)`,
      `EXISTS (SELECT FROM ${quoteTable(watched.table)} AS _crossfade_d JOIN ${links} AS _crossfade_l ON ${linked(dependency, '_crossfade_d', '_crossfade_l')} WHERE ${equal})`,
    ]
  })
}

/** What the plan asks the server: whether the columns of both sides can be equal at all. */
export const linkQuery = (
  driving: { readonly schema: string; readonly name: string },
  dependency: Dependency,
): string =>
  `SELECT FROM ${quoteTable(driving)} AS _crossfade_d JOIN ${quoteTable(dependency.table)} AS _crossfade_l ON ` +
  dependency.on
    .map(
      ({ column, driving: own }) =>
        `_crossfade_d.${quoteIdentifier(own)} = _crossfade_l.${quoteIdentifier(column)}`,
    )
    .join(' AND ')
