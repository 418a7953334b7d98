import { resolveGroups } from '../../src/copy/groups.ts'
import { copyChunk } from '../../src/copy/copy-range.ts'
import { isSwapped, swapNames } from '../../src/ddl/swap.ts'
import type { RangeState } from '../../src/database/index.ts'
import { applyRound } from '../../src/sync/apply-changes.ts'
import type { TraceStep } from '../model/explore.ts'
import type { Change, Configuration, Value } from '../model/pair.ts'
import { claimRange, drainLog, never, planRanges, type BothSides, type Session } from './both-sides.ts'
import { Stepped, type Instead } from './stepped.ts'
import { eventually } from './wait.ts'

/**
 * Plays a trace of the model (test/model) with real sessions: the application's statements in sessions of their own, and ours as they
 * are in src, one statement at a time. A step of the model lets its actor on up to the statement that the step stands for; what the
 * code does not do, because it has the rule that the model went without, is passed over.
 */

/** Stands still, in the sessions that have a gate, while its gate is shut: after a statement's snapshot, before it writes. */
export const gates = `
    CREATE TABLE gates (name text PRIMARY KEY);
    CREATE FUNCTION held(value text) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
      WHILE EXISTS (SELECT FROM gates WHERE name = current_setting('test.gate', true)) LOOP PERFORM pg_sleep(0.002); END LOOP;
      RETURN value;
    END $$;`

export const tables = (configuration: Configuration): string => {
  const rows = (table: string, values: readonly Value[]): string =>
    values.map((v, key) => (v === null ? '' : `INSERT INTO ${table} VALUES (${key}, 'v${v}');`)).join(' ')
  return `${gates}
    CREATE TABLE users (id bigint PRIMARY KEY, name text);
    CREATE TABLE people (id bigint PRIMARY KEY, name text);
    ${rows('users', configuration.rows)} ${rows('people', configuration.target ?? [])}`
}

export const mapping = {
  source: 'users',
  target: 'people',
  key: { id: 'id' },
  columns: { name: 'held(name)' },
  reverse: { columns: { name: true } },
} as const

/** The order of an applier's statements in its transaction; a step of the model lets it on through all up to its own. */
const applierStages: readonly [RegExp, number][] = [
  [/^DELETE FROM \S*changes_/, 1],
  [/^UPDATE "public"/, 3],
  [/pg_advisory_xact_lock_shared/, 4],
  [/^WITH _crossfade_a AS/, 5],
  [/^SELECT _crossfade_n FROM unnest/, 6],
  [/^SELECT virtualtransaction/, 7],
  [/^DELETE FROM "public"/, 9],
  [/^INSERT INTO \S*changes_/, 10],
  [/^COMMIT/, 11],
]

const laneStages: readonly [RegExp, number][] = [
  [/^SELECT fence/, 1],
  [/pg_advisory_xact_lock_shared/, 1],
  [/OFFSET \d+ LIMIT 1/, 2],
  [/^INSERT INTO "public"/, 3],
  [/^SELECT count/, 4],
  [/^UPDATE \S*ranges/, 4],
  [/^COMMIT/, 5],
]

/** Real sessions that stand where the model's actors do. */
export class Player {
  readonly m: BothSides
  readonly #instead: Instead | undefined
  readonly #actors = new Map<string, Stepped>()
  readonly #arrivals = new Map<string, Promise<void>>()
  readonly #sessions = new Map<string, { session: Session; running?: Promise<unknown> }>()
  readonly #claims = new Map<string, RangeState>()
  readonly #hasLooked = new Set<string>()

  constructor(m: BothSides, instead?: Instead) {
    this.m = m
    this.#instead = instead
  }

  async actor(name: string): Promise<Stepped> {
    const known = this.#actors.get(name)
    if (known) return known
    const place = await this.m.open({ 'test.gate': name }, name)
    const actor = new Stepped(name, place, this.#instead, name.startsWith('P') ? 5000 : undefined)
    this.#actors.set(name, actor)
    return actor
  }

  shut = (name: string): Promise<unknown> =>
    this.m.sql('INSERT INTO gates VALUES ($1) ON CONFLICT DO NOTHING', [name])

  open = (name: string): Promise<unknown> => this.m.sql('DELETE FROM gates WHERE name = $1', [name])

  /** Waits until `work` has ended, or its session waits for a gate that is shut or a lock that somebody has. */
  async settles(name: string, work: Promise<unknown>): Promise<void> {
    let hasEnded = false
    work.then(
      () => (hasEnded = true),
      () => (hasEnded = true),
    )
    await eventually(
      async () =>
        hasEnded ||
        (await this.m.value(
          `SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database() AND state = 'active' ` +
            `AND (cardinality(pg_blocking_pids(pid)) > 0 OR wait_event = 'PgSleep' AND EXISTS (SELECT FROM gates WHERE name = $1))`,
          [name],
        )) ||
        hasEnded,
      { what: `${name} to stand still`, intervalMs: 3 },
    )
  }

  async #letOn(name: string, actor: Stepped): Promise<void> {
    const arrives = actor.letOn()
    this.#arrivals.set(name, arrives)
    await this.settles(name, arrives)
  }

  /** Lets it on while it stands before a statement that `may` go. */
  async advance(name: string, may: (next: string) => boolean): Promise<void> {
    const actor = await this.actor(name)
    const arrives = this.#arrivals.get(name)
    if (arrives) await this.settles(name, arrives)
    while (actor.next !== undefined && may(actor.next)) await this.#letOn(name, actor)
  }

  async kill(name: string): Promise<void> {
    const actor = await this.actor(name)
    await this.m.sql(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()`,
      [name],
    )
    await this.open(name)
    await actor.free()
  }

  async lane(name: string, does: string): Promise<void> {
    const { m } = this
    const through = (stage: number) => (next: string) => stageOf(laneStages, next) <= stage
    const actor = await this.actor(name)
    switch (does) {
      case 'claims': {
        const state = await claimRange(m.place, m.forward).catch(() => undefined)
        if (state) this.#claims.set(name, state)
        return
      }
      case 'locks its range': {
        const state = this.#claims.get(name)
        if (actor.next === undefined && state)
          await actor.start((place) => copyChunk(place, m.forward, state, 2, never))
        return this.advance(name, through(1))
      }
      case 'reads':
        await this.shut(name)
        return this.advance(name, through(3))
      case 'inserts':
        await this.open(name)
        return this.advance(name, through(3))
      case 'is killed':
        return this.kill(name)
      case 'commits':
      case 'is fenced':
        await this.open(name)
        return this.advance(name, through(5))
      case 'leaves its keys':
        await this.open(name)
        return actor.free()
      case 'meets a clash':
        await this.open(name)
        return this.advance(name, through(2))
    }
  }

  async applier(name: string, does: string): Promise<void> {
    const actor = await this.actor(name)
    const start = async (): Promise<void> => {
      if (actor.next === undefined) await actor.start((place) => applyRound(place, this.m.forward))
    }
    const through = (stage: number) => this.advance(name, (next) => this.#stage(name, next) <= stage)
    switch (does) {
      case 'reads what runs':
        await start()
        return this.advance(name, (next) => this.#stage(name, next) <= 0 || /^COMMIT/.test(next))
      case 'takes entries':
        await start()
        // On to a transaction that has taken something: after an empty one comes COMMIT at once.
        await this.advance(name, (next) => this.#stage(name, next) <= 1 || /^COMMIT/.test(next))
        return
      case 'locks target rows':
        return through(2)
      case 'reads early':
        await this.shut(name)
        return through(3)
      case 'updates standing rows':
        await this.open(name)
        return through(3)
      case 'reads absent rows':
        await this.shut(name)
        return through(5)
      case 'inserts absent rows':
        await this.open(name)
        return through(5)
      case 'looks for the source':
        return through(6)
      case 'names running chunks':
        return through(7)
      case 'locks rows to delete':
        return through(8)
      case 'delete takes its snapshot':
      case 'deletes':
        return through(9)
      case 'commits':
      case 'gives way':
        await this.open(name)
        return through(11)
      case 'is killed':
        return this.kill(name)
    }
  }

  /** The two times that target rows are locked are told apart by the look at the source between them. */
  #stage(name: string, next: string): number {
    const stage = stageOf(applierStages, next)
    if (stage === 1) this.#hasLooked.delete(name)
    if (stage === 6) this.#hasLooked.add(name)
    if (/^SELECT _crossfade_n FROM \(/.test(next)) return this.#hasLooked.has(name) ? 8 : 2
    return stage
  }

  async swap(does: string): Promise<void> {
    const actor = await this.actor('S')
    if (does === 'locks both tables') {
      let isLocked = false
      await actor.start((place) => this.exchange(place))
      await this.advance('S', (next) => {
        const may = !isLocked
        if (/^LOCK TABLE/.test(next)) isLocked = true
        return may
      })
    } else if (does === 'exchanges the names' || does === 'is not drained') await actor.free()
  }

  exchange = (place: BothSides['place']): Promise<unknown> =>
    place.database.transaction((tx) => swapNames(place, tx, this.m.migration, 'to-new'), {
      lockTimeoutMs: 100,
      applying: 'm',
    })

  /** Starts a transaction of the application; `onlyKeys` is how its trigger gives up: a serializable one leaves its keys. */
  async statement(name: string, sql: string, onlyKeys: boolean): Promise<void> {
    const known = this.#sessions.get(name)
    const session = known?.session ?? (await this.m.session(name))
    await session.query(`SET test.gate = '${name}'`)
    await session.query(`BEGIN ISOLATION LEVEL ${onlyKeys ? 'SERIALIZABLE' : 'READ COMMITTED'}`)
    const running = session.query(sql)
    running.catch(() => undefined)
    this.#sessions.set(name, { session, running })
    await this.settles(name, running)
  }

  async letStatementEnd(name: string): Promise<void> {
    await this.open(name)
    await this.#sessions.get(name)?.running
  }

  async endTransaction(name: string, how: 'COMMIT' | 'ROLLBACK'): Promise<void> {
    await this.letStatementEnd(name)
    await this.#sessions.get(name)?.session.query(how)
  }

  /** What a migration does after any trace: everybody ends, what is left is copied and applied, the names are exchanged. */
  async finish({ swaps = false }: { readonly swaps?: boolean | undefined } = {}): Promise<void> {
    const { m } = this
    await m.sql('DELETE FROM gates')
    for (const name of this.#sessions.keys()) await this.endTransaction(name, 'COMMIT')
    for (const actor of this.#actors.values()) await actor.free()
    const { dialect } = m.database
    for (;;) {
      const state = await m.database.transaction((tx) =>
        dialect.ranges.claim(tx, m.place.scope, m.forward.id, 'backfill', 0),
      )
      if (!state) break
      await copyChunk(m.place, m.forward, state, 2, never)
    }
    if (!swaps) return drainLog(m.place, m.forward)
    const lead = async (): Promise<BothSides['groups']> =>
      m.database.transaction((tx) => resolveGroups(tx, dialect, m.place.scope, m.migration))
    const hasNames = (): Promise<boolean> =>
      m.database.transaction((tx) => isSwapped(m.place, tx, m.migration))
    await eventually(async () => {
      if (await hasNames()) return true
      for (const group of (await lead()).forward) await applyRound(m.place, group)
      return this.exchange(m.place)
    })
    for (const group of (await lead()).reverse) await drainLog(m.place, group)
  }
}

const stageOf = (stages: readonly [RegExp, number][], sql: string): number =>
  stages.find(([pattern]) => pattern.test(sql))?.[1] ?? 0

function statementOf(change: Change): string {
  switch (change.do) {
    case 'insert':
      return `INSERT INTO users VALUES (${change.key}, 'v${change.value}')`
    case 'update':
      return `UPDATE users SET name = 'v${change.value}' WHERE id = ${change.key}`
    case 'delete':
      return `DELETE FROM users WHERE id = ${change.key}`
    case 'move':
      return `UPDATE users SET id = ${change.to} WHERE id = ${change.key}`
  }
}

/** Plays the trace, then lets everything come to its end. */
export async function play(
  m: BothSides,
  configuration: Configuration,
  trace: readonly TraceStep[],
  instead?: Instead,
): Promise<void> {
  const { changeLog } = m.database.dialect
  if (configuration.ranges.length > 0) await planRanges(m.place, [m.forward], 'backfill', 1)
  await m.database.transaction((tx) =>
    changeLog.put(
      tx,
      m.place.scope,
      m.forward,
      (configuration.logged ?? []).map((key) => ({ kind: 'copy', key: [String(key)] })),
    ),
  )
  const player = new Player(m, instead)
  const changes = configuration.writers.map(() => 0)
  for (const [place, { actor, does, note }] of trace.entries()) {
    if (actor.startsWith('B')) await player.lane(actor, does)
    else if (actor.startsWith('P')) await player.applier(actor, does)
    else if (actor === 'S') await player.swap(does)
    else if (actor.startsWith('A')) {
      const index = Number(actor.slice(1))
      const change = configuration.writers[index]?.[changes[index] ?? 0]
      if (change) await playWriter(player, actor, statementOf(change), trace, place)
      const isOver = does === 'commits' || does === 'rolls back' || (note ?? '').endsWith('nothing to do')
      if (isOver) changes[index] = (changes[index] ?? 0) + 1
    }
  }
  await player.finish(configuration)
}

/**
 * A statement of the application with its trigger cannot be stopped everywhere. What it has not committed nobody sees, so it may as
 * well begin later: it is sent at the last step before its end, except where the model inserts in its trigger after others have come
 * in between: then it is sent when the trigger takes its snapshot, and stands at the gate until the insert.
 */
export async function playWriter(
  player: Player,
  actor: string,
  sql: string,
  trace: readonly TraceStep[],
  place: number,
): Promise<void> {
  const { does, note } = trace[place] ?? { does: '' }
  if (does === 'commits') return player.endTransaction(actor, 'COMMIT')
  if (does === 'rolls back') return player.endTransaction(actor, 'ROLLBACK')
  if ((note ?? '').endsWith('nothing to do')) {
    await player.statement(actor, sql, false)
    return player.endTransaction(actor, 'ROLLBACK').catch(() => undefined)
  }
  const isEnd = (step: TraceStep): boolean => step.does === 'commits' || step.does === 'rolls back'
  const later = trace.slice(place + 1).filter((step) => step.actor === actor)
  const end = later.findIndex(isEnd)
  const rest = end < 0 ? later : later.slice(0, end)
  if (does === 'trigger inserts') return player.letStatementEnd(actor)
  if (does === 'trigger' && rest.some((step) => step.does === 'trigger inserts')) {
    await player.shut(actor)
    return player.statement(actor, sql, false)
  }
  if (rest.length === 0) await player.statement(actor, sql, does === 'trigger gives up')
}
