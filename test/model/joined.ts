import type { Model, Step } from './explore.ts'
import type { Mutations } from './mutations.ts'
import { at, isFree, seenBy, write, type Row, type Value } from './pair.ts'

/**
 * A target row that is made from two tables: an order, whose value is the customer that it names, and customers, whose value is
 * read beside it (src/database/postgres/dependencies.ts). What the target should say is 0 where the order names nobody. A change of
 * a customer leaves the customer, and which orders that touches is asked later; a change of the order always leaves its key. Once the
 * new side leads, it is written there, and no change of a customer may be copied over that.
 */
interface Joined {
  order: Row
  customers: Row[]
  target: Row
  log: Entry[]
  a: { at: 'idle' | 'read' | 'write' | 'insert' | 'end'; change: number; value: Value; leaves: boolean }
  b: { at: 'idle' | 'end'; change: number; leaves: Entry[] }
  chunk: { at: 'idle' | 'insert' | 'commit' | 'over'; value: Value }
  appliers: Applier[]
  leads: 'old' | 'new'
  /** The new side's own application has written its row. */
  isWritten: boolean
}

/** The order's key, or a customer whose orders are to be found. */
type Entry = 'key' | `customer ${number}`

interface Applier {
  at: 'idle' | 'lock' | 'update' | 'read' | 'insert' | 'commit'
  value: Value
  isBusy: boolean
}

/** Another customer of the order, which is made where there is none. */
type OrderChange = number

/** A customer gets another value, or another number. */
type CustomerChange =
  { readonly customer: number; readonly value: number } | { readonly customer: number; readonly to: number }

export interface JoinedConfiguration {
  readonly order: Value
  readonly customers: readonly Value[]
  readonly orders: readonly OrderChange[]
  readonly changes: readonly CustomerChange[]
  readonly appliers: number
  /** Else the target says already what it should. */
  readonly copies: boolean
  /** The primary side moves, and the new side is written. */
  readonly moves?: boolean
}

/** What the new side's own application writes. */
const newer = 99

const row = (committed: Value): Row => ({ committed, by: null, own: null, page: 0, ownPage: 0 })

const meant = (order: Value, customers: readonly Value[]): Value =>
  order === null ? null : (customers[order] ?? 0)

const committed = (s: Joined): Value =>
  meant(
    s.order.committed,
    s.customers.map((customer) => customer.committed),
  )

export function joinedModel(configuration: JoinedConfiguration, without: Mutations): Model<Joined> {
  const { order, customers, orders, changes, appliers, copies, moves } = configuration
  return {
    initial: {
      order: row(order),
      customers: customers.map(row),
      target: row(copies ? null : meant(order, customers)),
      log: [],
      a: { at: 'idle', change: 0, value: null, leaves: false },
      b: { at: 'idle', change: 0, leaves: [] },
      chunk: { at: copies ? 'idle' : 'over', value: null },
      appliers: Array.from({ length: appliers }, () => ({ at: 'idle', value: null, isBusy: false })),
      leads: 'old',
      isWritten: false,
    },
    steps: (s) => [
      ...orderSteps(s, orders, without),
      ...customerSteps(s, changes, without),
      ...chunkSteps(s),
      ...s.appliers.flatMap((_, i) => applierSteps(s, i, without)),
      ...(moves ? moveSteps(s) : []),
    ],
    violation: (s, isOver) => {
      const isDrained =
        s.chunk.at === 'over' && s.log.length === 0 && s.appliers.every((p) => p.at === 'idle')
      if (isDrained && s.leads === 'old' && s.target.committed !== committed(s))
        return 'drained, and the target says another thing'
      if (s.isWritten && s.target.committed !== newer) return 'what the new side wrote is gone'
      const isDone =
        isDrained &&
        s.a.change === orders.length &&
        s.b.change === changes.length &&
        s.isWritten === (moves ?? false)
      return isOver && !isDone ? 'nobody can go on' : undefined
    },
  }
}

function step(
  s: Joined,
  actor: string,
  does: string,
  change: (next: Joined) => void,
  note?: string,
): Step<Joined> {
  const next = JSON.parse(JSON.stringify(s)) as Joined
  change(next)
  return { actor, does, next, ...(note === undefined ? {} : { note }) }
}

const put = (n: Joined, ...entries: Entry[]): void => {
  n.log = [...n.log, ...entries].sort()
}

function end(n: Joined, actor: string, isCommitted: boolean): void {
  for (const r of [n.order, ...n.customers, n.target])
    if (r.by === actor) {
      if (isCommitted) r.committed = r.own
      r.by = null
      r.own = null
    }
}

/** A statement on the order, and its trigger: what it writes is as old as its reading. */
function orderSteps(s: Joined, orders: readonly OrderChange[], without: Mutations): Step<Joined>[] {
  const { a, target } = s
  const customer = orders[a.change]
  if (customer === undefined) return []
  const giveUp = step(s, 'A', 'trigger gives up', (n) => {
    if (n.target.by === 'A') Object.assign(n.target, { by: null, own: null })
    Object.assign(n.a, { at: 'end', leaves: true })
  })
  switch (a.at) {
    case 'idle':
      return [
        step(
          s,
          'A',
          'statement',
          (n) => {
            write(n.order, 'A', customer)
            n.a.at = 'read'
          },
          `of customer ${customer}`,
        ),
      ]
    case 'read':
      return [
        giveUp,
        step(s, 'A', 'trigger reads', (n) => {
          n.a.value = s.customers[customer]?.committed ?? 0
          n.a.at = target.committed === null ? 'insert' : 'write'
        }),
      ]
    case 'write':
    case 'insert': {
      const passesOver = a.at === 'insert' && target.committed !== null
      if (!isFree(target, 'A') || passesOver) return [giveUp]
      return [
        giveUp,
        step(s, 'A', 'trigger writes', (n) => {
          write(n.target, 'A', a.value)
          Object.assign(n.a, { at: 'end', leaves: !without.has('joinedLeavesNoKey') })
        }),
      ]
    }
    case 'end':
      return [true, false].map((isCommitted) =>
        step(s, 'A', isCommitted ? 'commits' : 'rolls back', (n) => {
          end(n, 'A', isCommitted)
          if (isCommitted && a.leaves) put(n, 'key')
          n.a = { at: 'idle', change: a.change + 1, value: null, leaves: false }
        }),
      )
  }
}

/** A statement on a customer; its trigger writes nothing, and leaves the numbers from before and after. */
function customerSteps(s: Joined, changes: readonly CustomerChange[], without: Mutations): Step<Joined>[] {
  const { b } = s
  const change = changes[b.change]
  if (change === undefined) return []
  if (b.at === 'end')
    return [true, false].map((isCommitted) =>
      step(s, 'B', isCommitted ? 'commits' : 'rolls back', (n) => {
        end(n, 'B', isCommitted)
        if (isCommitted) put(n, ...b.leaves)
        n.b = { at: 'idle', change: b.change + 1, leaves: [] }
      }),
    )
  const touched = 'to' in change ? [change.customer, change.to] : [change.customer]
  const named = without.has('newLinkOnly') ? touched.slice(-1) : touched
  const isTouched = s.order.committed !== null && named.includes(s.order.committed)
  return [
    step(
      s,
      'B',
      'statement',
      (n) => {
        const value = at(s.customers, change.customer).committed
        write(at(n.customers, change.customer), 'B', 'to' in change ? null : change.value)
        if ('to' in change) write(at(n.customers, change.to), 'B', value)
        n.b.at = 'end'
        n.b.leaves = named.map((customer): Entry => `customer ${customer}`)
        if (without.has('linkResolvedAtOnce')) n.b.leaves = isTouched ? ['key'] : []
      },
      `customer ${touched.join(' to ')}`,
    ),
  ]
}

/** As in lane.ts: adds what is missing, never overwrites. */
function chunkSteps(s: Joined): Step<Joined>[] {
  const { chunk, target } = s
  switch (chunk.at) {
    case 'over':
      return []
    case 'idle':
      return [
        step(s, 'C', 'reads', (n) => {
          n.chunk.value = committed(s)
          n.chunk.at = n.chunk.value === null ? 'commit' : 'insert'
        }),
      ]
    case 'insert':
      if (!isFree(target, 'C')) return []
      return [
        step(s, 'C', 'inserts', (n) => {
          if (target.committed === null) write(n.target, 'C', chunk.value)
          n.chunk.at = 'commit'
        }),
      ]
    case 'commit':
      return [
        step(s, 'C', 'commits', (n) => {
          end(n, 'C', true)
          n.chunk = { at: 'over', value: null }
        }),
      ]
  }
}

/** The move waits for writers of both tables and for an empty log; then the new side is written by its own application. */
function moveSteps(s: Joined): Step<Joined>[] {
  const isQuiet =
    s.a.at === 'idle' &&
    s.b.at === 'idle' &&
    s.chunk.at === 'over' &&
    s.log.length === 0 &&
    s.appliers.every((p) => p.at === 'idle')
  if (s.leads === 'old') return isQuiet ? [step(s, 'M', 'moves', (n) => void (n.leads = 'new'))] : []
  if (s.isWritten || !isFree(s.target, 'N')) return []
  return [
    step(s, 'N', 'writes', (n) => {
      n.target.committed = newer
      n.isWritten = true
    }),
  ]
}

/** As in applier.ts, for the one key; what it takes goes back into the log by the same commit, or is gone. */
function applierSteps(s: Joined, index: number, without: Mutations): Step<Joined>[] {
  const p = at(s.appliers, index)
  const name = `P${index}`
  const { target } = s
  const act = (does: string, change: (p: Applier, n: Joined) => void): Step<Joined>[] => [
    step(s, name, does, (n) => change(at(n.appliers, index), n)),
  ]
  const isHeld = target.committed !== null && !isFree(target, name)
  switch (p.at) {
    case 'idle': {
      const customers = s.log.filter((entry) => entry !== 'key')
      const isTouched = customers.includes(`customer ${s.order.committed ?? -1}`)
      const isOwed = s.leads === 'old' || without.has('copiesOverNewSide')
      const steps: Step<Joined>[] = []
      if (customers.length > 0)
        steps.push(
          ...act('finds the orders', (_, n) => {
            n.log = n.log.filter((entry) => entry === 'key')
            if (isTouched && isOwed) put(n, 'key')
          }),
        )
      if (s.log.includes('key'))
        steps.push(
          ...act('takes the key', (q, n) => {
            n.log = n.log.filter((entry) => entry !== 'key')
            q.at = 'lock'
          }),
        )
      return steps
    }
    case 'lock':
      return act('locks the target row', (q, n) => {
        q.isBusy = isHeld
        if (!isHeld && target.committed !== null) write(n.target, name, target.committed)
        q.at = isHeld ? 'commit' : target.committed === null ? 'read' : 'update'
      })
    case 'update':
      return act('updates the standing row', (q, n) => {
        const value = committed(s)
        if (value !== null) write(n.target, name, value)
        q.at = 'commit'
      })
    case 'read':
      return act('reads the absent row', (q) => {
        q.value = committed(s)
        q.at = q.value === null ? 'commit' : 'insert'
      })
    case 'insert':
      if (!isFree(target, name)) return []
      return act('inserts the absent row', (q, n) => {
        q.isBusy = seenBy(target, name) !== null
        if (!q.isBusy) write(n.target, name, q.value)
        q.at = 'commit'
      })
    case 'commit':
      return act('commits', (q, n) => {
        end(n, name, true)
        if (p.isBusy) put(n, 'key')
        Object.assign(q, { at: 'idle', value: null, isBusy: false })
      })
  }
}
