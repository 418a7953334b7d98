import { exchangeModel, type ExchangeConfiguration } from './exchange.ts'
import { explore, type Exploration, type Model } from './explore.ts'
import { joinedModel, type JoinedConfiguration } from './joined.ts'
import { asBuilt, type Mutations } from './mutations.ts'
import { lanesModel, type LanesConfiguration } from './lanes.ts'
import { pairModel } from './pair-model.ts'
import type { Change, Configuration, Value } from './pair.ts'
import { twoDatabasesModel, type TwoConfiguration } from './two-databases.ts'

/**
 * What is explored: many small configurations instead of one that is too large to visit, each with every script of the application
 * that is named here.
 */
export interface Family {
  readonly about: string
  /** Those of one database: what a trace is replayed with. */
  readonly configurations: readonly Configuration[]
  models(without: Mutations): Model<unknown>[]
}

const update = (value: number, key = 0): Change => ({ do: 'update', key, value })
const insert = (value: number, key = 0): Change => ({ do: 'insert', key, value })
const remove = (key = 0): Change => ({ do: 'delete', key })
const move = (key: number, to: number): Change => ({ do: 'move', key, to })

const pairs = (about: string, configurations: readonly Configuration[]): Family => ({
  about,
  configurations,
  models: (without) => configurations.map((c) => pairModel(c, without) as Model<unknown>),
})

const scripts = (
  base: Omit<Configuration, 'writers'>,
  ...writers: readonly (readonly (readonly Change[])[])[]
): Configuration[] => writers.map((script) => ({ ...base, writers: script }))

const lane = { rows: [1], ranges: [[0]] } as const

/** One lane whose attempt is killed or overtaken by its second one, at every point. */
const chunks = [
  ...scripts(
    { ...lane, appliers: 1, crashes: 1 },
    [[update(2)]],
    [[remove()]],
    [[update(2), remove()]],
    [[remove(), insert(2)]],
    [[update(2), update(3)]],
    [[remove()], [insert(3)]],
    [[update(2)], [update(3)]],
    [[update(2)], [remove()]],
  ),
  ...scripts(
    { ...lane, rows: [null], appliers: 1, crashes: 1 },
    [[insert(2)]],
    [[insert(2), remove()]],
    [[insert(2)], [insert(3)]],
  ),
]

/** Two appliers, without a lane and with one; a target that is right, stale, absent, or should not be there. */
const copied = { rows: [1], ranges: [], appliers: 2 } as const
const appliers = [
  ...scripts(
    { ...copied, target: [1], crashes: 1 },
    [[update(2)]],
    [[remove(), insert(2)]],
    [[update(2), remove()]],
    [[update(2)], [update(3)]],
    [[remove()], [insert(3)]],
  ),
  ...scripts({ ...copied, target: [2], logged: [0] }, [[update(2)]], [[remove()]]),
  ...scripts({ ...copied, target: [null], logged: [0] }, [[update(2)]], [[remove()]]),
  ...scripts({ ...copied, rows: [null], target: [2], logged: [0] }, [[insert(3)]], [[insert(3), remove()]]),
]

const chunkAndAppliers = scripts({ ...lane, appliers: 2 }, [[remove()]], [[remove(), insert(2)]])

/** Rings of two and three, a row of three whose last value is free, and one ring after another. */
const exchanges: readonly ExchangeConfiguration[] = [
  { rows: [1, 2], changes: [[2, 1]], appliers: 2 },
  {
    rows: [1, 2],
    changes: [
      [2, 1],
      [1, 2],
    ],
    appliers: 2,
  },
  { rows: [1, 2, 3], changes: [[2, 3, 1]], appliers: 2 },
  {
    rows: [1, 2, 3],
    changes: [
      [2, 3, 4],
      [2, 4, 3],
    ],
    appliers: 2,
  },
  {
    rows: [1, 2, 3],
    changes: [
      [2, 1, 3],
      [2, 3, 1],
    ],
    appliers: 2,
  },
]

/** A later chunk and the second look of an earlier delete. */
const laterDeletes = scripts({ ...lane, target: [1], appliers: 1 }, [[remove(), insert(2), remove()]])

const keyChanges = [
  ...scripts(
    { rows: [1, null], ranges: [[0], [1]], appliers: 1, once: true },
    [[move(0, 1)]],
    [[move(0, 1), remove(1)]],
    [[move(0, 1)], [insert(5)]],
    [[move(0, 1)], [update(5, 1)]],
  ),
  // The lanes go against the move: the first one is past the key that the row moves to.
  ...scripts(
    { rows: [null, 1], ranges: [[0], [1]], appliers: 1, once: true },
    [[move(1, 0)]],
    [[move(1, 0), update(3)]],
  ),
  ...scripts({ rows: [1, 2], ranges: [[0, 1]], appliers: 1 }, [[remove()], [update(3, 1)]]),
  ...scripts({ rows: [1, null], target: [1, null], ranges: [], appliers: 2 }, [[move(0, 1), move(1, 0)]]),
]

/** Two rows, each in a page of its own; a third page is there for what is written. */
const placed = { rows: [1, 2], pages: [0, 1], ranges: [[0], [1]], appliers: 1, once: true } as const
const places = [
  ...scripts(placed, [[update(3)]], [[update(3, 1)]], [[remove()]]),
  ...scripts({ ...placed, rows: [1, null], pages: [0, 0] }, [[move(0, 1)]], [[insert(3, 1)]]),
  ...scripts({ ...placed, rows: [1], pages: [0], ranges: [[0, 1]], once: false, crashes: 1 }, [[update(2)]]),
  ...scripts(
    { ...placed, rows: [1, null], pages: [0, 0], ranges: [[0]], expands: true },
    [[update(3)]],
    [[insert(3, 1)]],
  ),
]

const rewrites = scripts(
  { ...placed, pages: [0, 2], ranges: [[0], [1, 2]], rewritten: true },
  [],
  [[update(3)]],
)

const expands = scripts(
  { ...lane, appliers: 1, expands: true },
  [[update(2)]],
  [[remove()]],
  [[update(2)], [remove()]],
)

const swaps = [
  ...scripts(
    { rows: [1], target: [1], ranges: [], appliers: 2, swaps: true },
    [[update(2), remove()]],
    [[update(2)], [update(3)]],
    [[remove()], [insert(2)]],
    [[remove(), insert(2)], [update(3)]],
  ),
  ...scripts({ ...lane, appliers: 1, swaps: true }, [[update(2), remove()]], [[remove()]]),
]

/** The application captures its own writes; one or two of its copies, a lane or none, and an applier. */
const followed = [
  ...scripts(
    { ...lane, appliers: 1, followers: 1, once: true },
    [[update(2)]],
    [[remove()]],
    [[update(2), remove()]],
  ),
  ...scripts({ ...lane, rows: [null], appliers: 1, followers: 1, once: true }, [[insert(2), remove()]]),
  ...scripts(
    { ...copied, appliers: 1, followers: 2, target: [1] },
    [[update(2), update(3)]],
    [[remove(), insert(2)]],
    [[update(2)], [update(3)]],
    [[remove()], [insert(3)]],
  ),
  ...scripts(
    { ...copied, appliers: 1, followers: 2, rows: [null] },
    [[insert(2), update(3)]],
    [[insert(2), remove()]],
  ),
]

const joinedAndStill: readonly JoinedConfiguration[] = [
  {
    order: null,
    customers: [1, 2],
    orders: [0],
    changes: [{ customer: 0, value: 3 }],
    appliers: 2,
    copies: false,
  },
  {
    order: 0,
    customers: [1, 2],
    orders: [1],
    changes: [{ customer: 1, value: 3 }],
    appliers: 2,
    copies: true,
  },
  {
    order: 0,
    customers: [1, null],
    orders: [1],
    changes: [{ customer: 0, to: 1 }],
    appliers: 1,
    copies: true,
  },
  {
    order: 0,
    customers: [1, 2],
    orders: [1, 0],
    changes: [
      { customer: 0, value: 3 },
      { customer: 1, value: 4 },
    ],
    appliers: 1,
    copies: true,
  },
]

const joinedAndMoved: JoinedConfiguration = {
  order: 0,
  customers: [1, 2],
  orders: [],
  changes: [
    { customer: 0, value: 3 },
    { customer: 0, value: 4 },
  ],
  appliers: 2,
  copies: true,
  moves: true,
}

/** What a trace of the family `joined` is replayed with. */
export const joined: readonly JoinedConfiguration[] = [...joinedAndStill, joinedAndMoved]

const two = (value: Value, target: Value, changes: readonly Value[], count: number): TwoConfiguration => ({
  row: value,
  target,
  changes,
  appliers: count,
  copies: target === null,
})

const databases = [
  two(1, null, [2], 2),
  two(1, null, [null], 2),
  two(1, null, [2, null], 1),
  two(1, null, [null, 2], 1),
  two(1, 1, [2, 3], 2),
  two(1, 1, [2, null], 2),
  two(1, 1, [null, 2], 2),
]

const leaving: readonly LanesConfiguration[] = [
  { ranges: 3, lanes: 3, steady: 1 },
  { ranges: 4, lanes: 4, steady: 2 },
]

export const families = {
  lane: pairs('one key, a lane with two attempts that overlap or are killed, an applier', chunks),
  appliers: pairs('one key, two appliers; targets that are right, stale, absent or too many', appliers),
  'lane and appliers': pairs('one key, a lane and two appliers', chunkAndAppliers),
  deletes: pairs('one key that is deleted twice', laterDeletes),
  'key changes': pairs('two keys, changes of the key, two lanes', keyChanges),
  places: pairs('one or two keys, ranges of pages, rows that move from page to page', places),
  rewrites: pairs('two keys in two ranges of pages, and the table is rewritten', rewrites),
  expand: pairs('the triggers are made while the application writes', expands),
  swap: pairs('the names are exchanged while the application writes', swaps),
  followed: pairs(
    'one key, the application’s own copies after its commits, an applier, with a lane and without',
    followed,
  ),
  exchange: {
    about: 'rows that exchange the values of a unique index',
    configurations: [],
    models: (without) => exchanges.map((c) => exchangeModel(c, without) as Model<unknown>),
  },
  joined: {
    about: 'one key that is made from two tables, both of which change, with a chunk and without',
    configurations: [],
    models: (without) => joined.map((c) => joinedModel(c, without) as Model<unknown>),
  },
  lanes: {
    about: 'lanes that come for ranges, and some that leave before the end',
    configurations: [],
    models: (without) => leaving.map((c) => lanesModel(c, without) as Model<unknown>),
  },
  'two databases': {
    about: 'one key, its two sides in two databases, an answer to COMMIT that is lost',
    configurations: [],
    models: (without) => databases.map((c) => twoDatabasesModel(c, without) as Model<unknown>),
  },
} satisfies Record<string, Family>

export type FamilyName = keyof typeof families

/** `configuration` is the place of the one with the counterexample. */
export interface FamilyExploration extends Exploration {
  readonly configuration: number
}

/** Explores a family up to its first counterexample; `states` is the sum over its configurations. */
export function exploreFamily(name: FamilyName, without: Mutations = asBuilt): FamilyExploration {
  let states = 0
  for (const [configuration, model] of families[name].models(without).entries()) {
    const exploration = explore(model)
    states += exploration.states
    if (exploration.counterexample)
      return { states, configuration, counterexample: exploration.counterexample }
  }
  return { states, configuration: -1 }
}
