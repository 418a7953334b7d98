import { performance } from 'node:perf_hooks'
import type { TestContext } from 'vitest'
import type { PostgresServer } from '../../src/dev/postgres-server.ts'
import { copyChunk } from '../../src/copy/copy-range.ts'
import {
  claimRange,
  never,
  planRanges,
  withBothSides,
  type BothSides,
  type Session,
  type SmallDefinition,
} from './both-sides.ts'
import type { PostgresVersion } from './postgres.ts'
import { eventually } from './wait.ts'

/**
 * The mapping's expression waits while a gate is shut, in the sessions that say so: a statement of ours has then taken its
 * snapshot and read its first row, and stands still before it writes.
 */
const gate = `
  CREATE FUNCTION held(value text) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
  BEGIN
    WHILE current_setting('test.waits', true) = 'yes' AND NOT pg_try_advisory_xact_lock_shared(4711) LOOP PERFORM pg_sleep(0.002); END LOOP;
    RETURN value;
  END $$;`

const schema = `${gate}
  CREATE TABLE users (id bigint PRIMARY KEY, name text, note text, active boolean NOT NULL DEFAULT true);
  CREATE TABLE people (id bigint PRIMARY KEY, full_name text);
  INSERT INTO users SELECT i, 'old ' || i FROM generate_series(1, 5) i;`

const definition: SmallDefinition = {
  mappings: [
    {
      source: 'users',
      target: 'people',
      key: { id: 'id' },
      columns: { full_name: 'held(name)' },
      where: 'active',
      reverse: { columns: { name: 'full_name' } },
    },
  ],
}

export const prepare = (
  t: TestContext,
  on: PostgresVersion | PostgresServer,
  more = '',
  sync: SmallDefinition['sync'] = {},
): Promise<BothSides> => withBothSides(t, on, `${schema} ${more}`, { ...definition, sync })

export const differences = (m: BothSides): Promise<Record<string, unknown>[]> =>
  m.differences('SELECT id, name FROM users WHERE active', 'SELECT id, full_name FROM people')

export const person = (m: BothSides, id: number): Promise<unknown> =>
  m.value('SELECT full_name FROM people WHERE id = $1', [id])

/** A lane's chunk over the whole table that has read its rows and stands still; `finish` lets it write and commit. */
export async function openChunk(m: BothSides): Promise<{ finish(): Promise<void> }> {
  const keeper = await shutGate(m)
  const waiting = await m.open({ 'test.waits': 'yes' }, 'chunk')
  await planRanges(m.place, [m.forward], 'backfill', 1)
  const state = await claimRange(m.place, m.forward)
  const chunk = copyChunk(waiting, m.forward, state, 500, never)
  chunk.catch(() => undefined)
  await standsStill(m, 'chunk')
  return {
    finish: async () => {
      await keeper.query('SELECT pg_advisory_unlock(4711)')
      await chunk
    },
  }
}

export async function shutGate(m: BothSides): Promise<Session> {
  const keeper = await m.session('keeper')
  await keeper.query('SELECT pg_advisory_lock(4711)')
  return keeper
}

export async function standsStill(m: BothSides, application: string): Promise<void> {
  const asleep = `SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1 AND wait_event = 'PgSleep'`
  await eventually(() => m.value(asleep, [application]), {
    what: `${application} to stand still`,
    intervalMs: 3,
    timeoutMs: 3000,
  })
}

export const kinds = async (m: BothSides): Promise<string[]> =>
  (await m.log()).map(({ kind, key, waits }) => `${kind}${key}${waits ? ' waits' : ''}`)

/** A change of the source that nothing carries over: what an outage or a disabled trigger leaves behind. */
export const uncaptured = (m: BothSides, change: string): Promise<unknown> =>
  m.sql(`BEGIN; SET LOCAL crossfade.applying = 'm'; ${change}; COMMIT`)

/** Milliseconds that `work` took. */
export async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now()
  await work()
  return performance.now() - startedAt
}
