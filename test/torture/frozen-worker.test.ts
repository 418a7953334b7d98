import { setTimeout as delay } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { Activities } from '../../src/activities/contract.ts'
import { fingerprint, resolveMigration } from '../../src/definition/index.ts'
import { itemsToGoods } from '../support/items-to-goods.ts'
import { Ledger } from '../support/ledger.ts'
import { isLong } from '../support/migrations.ts'
import { MortalWorker } from '../support/mortal-worker.ts'
import { postgresVersions, withDatabase } from '../support/postgres.ts'
import { eventually } from '../support/wait.ts'

/**
 * Danger: a worker that stood still between two chunks wakes up and goes on as if nothing had happened. Another one has its range by
 * then. The database itself notes who moves which range's checkpoint.
 */

const rows = 6_000
const frozenMs = isLong ? 60_000 : 2_000

const migration = resolveMigration({
  ...itemsToGoods,
  name: 'frozen',
  // One lane that rests most of the time, so that it is met between two chunks.
  backfill: { profile: 'fast', maxConcurrency: 1, batchSize: 100, maxBatchSize: 100, rateLimitMs: 80 },
})

const ref = { name: migration.name, database: migration.database, fingerprint: fingerprint(migration) }
/** Much longer than it sleeps: nothing but the fence tells it that its time is over. */
const slice = { ...ref, settings: {}, lane: 0, lanes: 1, sliceSec: 600 }

/** Every move of a checkpoint, with who made it; a claim is one that raises the fence. */
const notes = `
  CREATE TABLE moves (n bigserial PRIMARY KEY, who text, range int, claim boolean);
  CREATE FUNCTION note_move() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    INSERT INTO moves (who, range, claim) VALUES (current_setting('application_name'), NEW.id, NEW.fence > OLD.fence);
    RETURN NULL;
  END $$;
  CREATE TRIGGER note_move AFTER UPDATE ON _crossfade_frozen.ranges FOR EACH ROW EXECUTE FUNCTION note_move();`

/** Moves by somebody who does not hold the range: the last claim before was another's. */
const late = `
  SELECT who, range FROM moves m WHERE NOT claim
    AND who <> (SELECT who FROM moves c WHERE c.claim AND c.range = m.range AND c.n < m.n ORDER BY n DESC LIMIT 1)`

describe.each(postgresVersions())('PostgreSQL %s', (version) => {
  test('a worker that slept between two chunks is fenced out, and writes nothing more', async (t) => {
    const database = await withDatabase(t, version)
    const { pool } = database
    await Ledger.open(t, database, 'items', rows)
    const [sleeper, other] = ['sleeper', 'other'].map(
      (name) => new MortalWorker(t, `${database.url}?application_name=${name}`),
    ) as [MortalWorker, MortalWorker]
    await sleeper.attempt('expand', { migration, fingerprint: ref.fingerprint }, false)
    await sleeper.attempt('planBackfill', { ...ref, settings: {} }, false)
    await pool.query(notes)
    const moved = async (who: string): Promise<number> =>
      (await pool.query(`SELECT FROM moves WHERE who = $1 AND NOT claim`, [who])).rowCount ?? 0

    const slept = sleeper.attempt('backfillSlice', slice, false).then(
      () => 'it ended as if nothing had happened',
      (error: Error) => error.message,
    )
    await eventually(
      async () => {
        if ((await moved('sleeper')) < 3) return false
        sleeper.freeze()
        const busy = await pool.query(
          `SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sleeper' AND state <> 'idle'`,
        )
        if (busy.rowCount === 0) return true
        sleeper.thaw()
        return false
      },
      { timeoutMs: 30_000, intervalMs: 20, what: 'it to be frozen between two chunks' },
    )
    const frozenAt = performance.now()
    const until = await moved('sleeper')
    const going = other.attempt('backfillSlice', slice, false)
    await eventually(async () => (await moved('other')) > 2, { what: 'another worker to have the range' })
    await delay(Math.max(0, frozenMs - (performance.now() - frozenAt)))
    sleeper.thaw()
    expect(await slept).toContain('BACKFILL.FENCED')
    expect(await moved('sleeper')).toBe(until)
    await going
    expect((await pool.query(late)).rows).toEqual([])
    const { rows: counts } = await pool.query(
      `SELECT sum(rows_done)::int AS done, sum(rows_written)::int AS written FROM _crossfade_frozen.ranges`,
    )
    expect(counts).toEqual([{ done: rows, written: rows }])
    await Promise.all([sleeper.end(), other.end()])
  })

  test.for(['flags', 'swap'] as const)(
    'what slept before it changed the flags or the primary side (%s) changes nothing once traffic is back',
    async (mode, t) => {
      const database = await withDatabase(t, version)
      await Ledger.open(t, database, 'items', 200)
      const late = resolveMigration({ ...itemsToGoods, name: 'late', cutover: { mode } })
      const ofLate = { name: late.name, database: late.database, fingerprint: fingerprint(late) }
      const worker = new MortalWorker(t, database.url)
      const act = (name: keyof Activities, input: object): Promise<unknown> =>
        worker.attempt(name, { ...ofLate, ...input }, false)
      const standing = async (): Promise<unknown> =>
        (
          await database.pool.query(
            `SELECT primary_side, epoch, (SELECT percent::int FROM _crossfade_late.flags WHERE key = 'late.new_schema_read') AS reads FROM _crossfade_late.state`,
          )
        ).rows[0]
      await act('expand', { migration: late })
      await act('planBackfill', { settings: {} })
      await act('backfillSlice', { settings: {}, lane: 0, lanes: 1, sliceSec: 60 })
      await act('complete', {})
      const [move, input] = (mode === 'flags' ? ['movePrimary', {}] : ['swap', { direction: 'to-new' }]) as [
        keyof Activities,
        object,
      ]
      if (mode === 'flags') await act('startReverse', {})
      await act('setFlags', { percent: { 'late.new_schema_read': 50 }, order: 10 })
      await act('returnTraffic', { order: 30 })

      const before = await standing()
      expect(before).toMatchObject({ primary_side: 'old', reads: 0 })
      await expect(act('setFlags', { percent: { 'late.new_schema_read': 100 }, order: 20 })).rejects.toThrow(
        'FLAGS.OVERTAKEN',
      )
      await expect(act(move, { ...input, order: 20 })).rejects.toThrow('FLAGS.OVERTAKEN')
      await expect(act('returnTraffic', { order: 20 })).rejects.toThrow('FLAGS.OVERTAKEN')
      expect(await standing()).toEqual(before)
      await act(move, { ...input, order: 40 })
      expect(await standing()).toMatchObject({ primary_side: 'new', reads: 100 })
      await worker.end()
    },
  )
})
