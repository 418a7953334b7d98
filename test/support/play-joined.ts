import { movePrimary } from '../../src/ddl/move-primary.ts'
import type { DefinitionInput } from '../../src/index.ts'
import type { TraceStep } from '../model/explore.ts'
import type { JoinedConfiguration } from '../model/joined.ts'
import { planRanges, watch, type BothSides } from './both-sides.ts'
import { gates, Player, playWriter } from './play-trace.ts'
import type { Instead } from './stepped.ts'

/** Plays a trace of the model's joined rows (test/model/joined.ts): an order, its customers, and the row that is made from both. */

const value = 'coalesce((SELECT value FROM customers c WHERE c.id = orders.customer), 0)::text'

export const joinedMapping = {
  source: 'orders',
  target: 'views',
  key: { id: 'id' },
  dependsOn: [{ table: 'customers', on: { id: 'customer' } }],
  columns: { value: `held(${value})` },
  reverse: { columns: {} },
} satisfies DefinitionInput['mappings'][number]

export const joinedTables = ({ order, customers, copies }: JoinedConfiguration): string => `${gates}
  CREATE TABLE customers (id int PRIMARY KEY, value int);
  CREATE TABLE orders (id int PRIMARY KEY, customer int); CREATE INDEX ON orders (customer);
  CREATE TABLE views (id int PRIMARY KEY, value text);
  ${customers.map((each, id) => (each === null ? '' : `INSERT INTO customers VALUES (${id}, ${each});`)).join(' ')}
  ${order === null ? '' : `INSERT INTO orders VALUES (0, ${order});`}
  ${order === null || copies ? '' : `INSERT INTO views SELECT id, ${value} FROM orders;`}`

/** As the model's steps of an applier are called where there are more keys than one. */
const applierSteps: Readonly<Record<string, string>> = {
  'takes the key': 'takes entries',
  'locks the target row': 'locks target rows',
  'updates the standing row': 'updates standing rows',
  'reads the absent row': 'reads absent rows',
  'inserts the absent row': 'inserts absent rows',
  commits: 'commits',
}

/** @returns what is wrong at the end */
export async function playJoined(
  m: BothSides,
  { order, orders, changes, copies, moves }: JoinedConfiguration,
  trace: readonly TraceStep[],
  instead?: Instead,
): Promise<unknown[]> {
  if (copies) await planRanges(m.place, [m.forward], 'backfill', 1)
  const player = new Player(m, instead)
  const statements: Record<string, string[]> = {
    A: orders.map((customer, i) =>
      order === null && i === 0
        ? `INSERT INTO orders VALUES (0, ${customer})`
        : `UPDATE orders SET customer = ${customer} WHERE id = 0`,
    ),
    B: changes.map((change) =>
      'to' in change
        ? `UPDATE customers SET id = ${change.to} WHERE id = ${change.customer}`
        : `UPDATE customers SET value = ${change.value} WHERE id = ${change.customer}`,
    ),
  }
  for (const [place, { actor, does }] of trace.entries()) {
    const [sql] = statements[actor] ?? []
    if (sql !== undefined) {
      await playWriter(player, actor, sql, trace, place)
      if (does === 'commits' || does === 'rolls back') statements[actor]?.shift()
    } else if (actor === 'C') {
      if (does === 'reads') for (const first of ['claims', 'locks its range']) await player.lane('C', first)
      await player.lane('C', does)
    } else if (does === 'finds the orders') {
      const finder = await player.actor('F')
      await finder.start(({ database, scope }) =>
        database.transaction((tx) => database.dialect.changeLog.resolveDependencies(tx, scope, m.forward)),
      )
      await finder.free()
    } else if (actor === 'M') await movePrimary(m.place, m.migration, m.groups, 'new', watch)
    else if (actor === 'N') await m.sql(`UPDATE views SET value = 'newer'`)
    else await player.applier(actor, applierSteps[does] ?? does)
  }
  await player.finish()
  if (moves) return m.sql(`SELECT * FROM views WHERE value <> 'newer'`)
  return m.differences(`SELECT id, ${value} FROM orders`, 'SELECT * FROM views')
}
