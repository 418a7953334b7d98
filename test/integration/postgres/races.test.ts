import { describe, expect, test } from 'vitest'
import type { LogEntryInput } from '../../../src/database/index.ts'
import { copyChunk } from '../../../src/copy/copy-range.ts'
import { applyRound } from '../../../src/sync/apply-changes.ts'
import { claimRange, never, planRanges, toKeys, type BothSides } from '../../support/both-sides.ts'
import {
  prepare,
  differences,
  person,
  openChunk,
  shutGate,
  standsStill,
  kinds,
  uncaptured,
  timed,
} from '../../support/held-users.ts'
import { postgresVersions } from '../../support/postgres.ts'
import { eventually } from '../../support/wait.ts'

describe.each(postgresVersions())('races on PostgreSQL %s', (version) => {
  describe('with a chunk between its reading and its commit', () => {
    test('a delete is found again by the second look', async (t) => {
      const m = await prepare(t, version)
      const chunk = await openChunk(m)
      await m.sql('DELETE FROM users WHERE id = 2')
      expect(await kinds(m)).toEqual(['c2'])
      await applyRound(m.place, m.forward)
      expect(await kinds(m)).toEqual(['l2 waits'])
      // Not due while the chunk runs, however often one looks.
      await applyRound(m.place, m.forward)
      expect(await kinds(m)).toEqual(['l2 waits'])
      await chunk.finish()
      expect(await person(m, 2)).toBe('old 2')
      await m.drain()
      expect(await differences(m)).toEqual([])
    })

    test('without the second look the row would be resurrected (so the test above can fail)', async (t) => {
      const m = await prepare(t, version)
      const chunk = await openChunk(m)
      await m.sql('DELETE FROM users WHERE id = 2')
      await applyRound(m.place, m.forward)
      await m.sql(`DELETE FROM _crossfade_m.changes_f1 WHERE kind = 'l'`)
      await chunk.finish()
      await m.drain()
      expect(await differences(m)).toEqual([{ side: '>', row: '(2,"old 2")' }])
    })

    test('a second delete of the same key has a second look of its own', async (t) => {
      const m = await prepare(t, version)
      const first = await openChunk(m)
      await m.sql('DELETE FROM users WHERE id = 2')
      await applyRound(m.place, m.forward)
      await first.finish()
      expect(await kinds(m)).toEqual(['l2 waits'])
      // The row comes back and is missing on the other side; a later chunk reads it, and it goes again.
      await m.sql(`INSERT INTO users VALUES (2, 'again'); DELETE FROM people WHERE id = 2`)
      const second = await openChunk(m)
      await m.sql('DELETE FROM users WHERE id = 2')
      // One batch holds the second look of the first delete and the first look of the second.
      await applyRound(m.place, m.forward)
      expect(await kinds(m)).toEqual(['l2 waits'])
      await second.finish()
      await m.drain()
      expect(await differences(m)).toEqual([])
    })

    test('an update wins, whether the chunk has inserted yet or not', async (t) => {
      const m = await prepare(t, version)
      const chunk = await openChunk(m)
      await m.sql(`UPDATE users SET name = 'new' WHERE id = 3`)
      expect(await person(m, 3)).toBe('new')
      await chunk.finish()
      await m.drain()
      expect(await differences(m)).toEqual([])
      expect(await m.value('SELECT rows_done FROM _crossfade_m.ranges')).toBe('5')
    })

    test('an update does not pass over a row that a chunk commits while its trigger is writing', async (t) => {
      const m = await prepare(t, version)
      const keeper = await shutGate(m)
      const application = await m.session('application')
      await application.query(`SET test.waits = 'yes'`)
      const update = application.query(`UPDATE users SET name = 'new' WHERE id = 1`)
      await standsStill(m, 'application')
      // The trigger's statement has found no target row; now there is one, with the value of before.
      await m.backfill()
      expect(await person(m, 1)).toBe('old 1')
      await keeper.query('SELECT pg_advisory_unlock(4711)')
      await update
      await m.drain()
      expect(await differences(m)).toEqual([])
    })

    test('an update of an update that rolls back leaves the row of the chunk', async (t) => {
      const m = await prepare(t, version)
      const chunk = await openChunk(m)
      const application = await m.session()
      await application.query('BEGIN')
      await application.query(`UPDATE users SET name = 'new' WHERE id = 3`)
      await application.query('ROLLBACK')
      await chunk.finish()
      await m.drain()
      expect(await differences(m)).toEqual([])
    })

    test('a row that leaves the filter goes', async (t) => {
      const m = await prepare(t, version)
      const chunk = await openChunk(m)
      await m.sql('UPDATE users SET active = false WHERE id = 4')
      expect(await kinds(m)).toEqual(['c4'])
      await applyRound(m.place, m.forward)
      await chunk.finish()
      expect(await person(m, 4)).toBe('old 4')
      await m.drain()
      expect(await differences(m)).toEqual([])
    })

    test('a change of the key is a delete and an insert', async (t) => {
      const m = await prepare(t, version)
      const chunk = await openChunk(m)
      await m.sql('UPDATE users SET id = 50 WHERE id = 5')
      await applyRound(m.place, m.forward)
      await chunk.finish()
      await m.drain()
      expect(await differences(m)).toEqual([])
    })

    test('a statement that meets the uncommitted rows of a chunk hardly waits, and is applied later', async (t) => {
      const maxWaitMs = 500
      const m = await prepare(t, version, '', { maxWaitMs })
      await planRanges(m.place, [m.forward], 'backfill', 1)
      const state = await claimRange(m.place, m.forward)
      let commit = (): void => undefined
      const mayCommit = new Promise<void>((resolve) => (commit = resolve))
      let hasWritten = (): void => undefined
      const written = new Promise<void>((resolve) => (hasWritten = resolve))
      const { ranges, copy } = m.database.dialect
      const chunk = m.database.transaction(async (tx) => {
        await ranges.lock(tx, m.place.scope, m.forward.id, 'backfill', state)
        await ranges.markChunkRunning(tx, m.place.scope)
        await copy.insertMissing(tx, m.forward.links[0], state.range, 'fail')
        hasWritten()
        await mayCommit
      })
      await written
      expect(await timed(() => m.sql(`UPDATE users SET name = 'new' WHERE id = 1`))).toBeLessThan(
        maxWaitMs / 2,
      )
      expect(await timed(() => m.sql('DELETE FROM users WHERE id = 2'))).toBeLessThan(maxWaitMs / 2)
      expect(await kinds(m)).toEqual(['c1', 'c2'])
      commit()
      await chunk
      expect(await differences(m)).not.toEqual([])
      await m.drain()
      expect(await differences(m)).toEqual([])
      // Nobody copies any more: now a lock on the new side is worth the whole wait.
      await m.backfill()
      const reader = await m.session('reader')
      await reader.query('BEGIN; SELECT FROM people WHERE id = 1 FOR UPDATE')
      expect(await timed(() => m.sql(`UPDATE users SET name = 'newer' WHERE id = 1`))).toBeGreaterThan(
        maxWaitMs / 2,
      )
      await reader.query('COMMIT')
    })
  })

  describe('with an applier between its lock and its commit', () => {
    /** An applier that copies `id` and stands still: it has locked the target row and read the source. */
    async function openApplier(m: BothSides, application: string): Promise<{ finish(): Promise<void> }> {
      const keeper = await shutGate(m)
      const waiting = await m.open({ 'test.waits': 'yes' }, application)
      const round = applyRound(waiting, m.forward)
      round.catch(() => undefined)
      await standsStill(m, application)
      return {
        finish: async () => {
          await keeper.query('SELECT pg_advisory_unlock(4711)')
          await round
        },
      }
    }

    const logKey = (m: BothSides, ...entries: LogEntryInput[]): Promise<void> =>
      m.database.transaction((tx) => m.database.dialect.changeLog.put(tx, m.place.scope, m.forward, entries))

    const copyOf = (id: number): LogEntryInput => ({ kind: 'copy', key: [String(id)] })

    test('an update of a standing row leaves its key and wins', async (t) => {
      const m = await prepare(t, version)
      await m.backfill()
      await m.sql(`UPDATE people SET full_name = 'stale' WHERE id = 1`)
      await logKey(m, copyOf(1))
      const applier = await openApplier(m, 'applier')
      expect(await timed(() => m.sql(`UPDATE users SET name = 'new' WHERE id = 1`))).toBeLessThan(
        m.migration.sync.maxWaitMs + 100,
      )
      await applier.finish()
      await m.drain()
      expect(await differences(m)).toEqual([])
    })

    test('an update to what the target says already is not overwritten by the older value', async (t) => {
      const m = await prepare(t, version)
      await m.backfill()
      // The target still says 'old 1', and the log knows that the source says 'newer'.
      await uncaptured(m, `UPDATE users SET name = 'newer' WHERE id = 1`)
      await logKey(m, copyOf(1))
      const application = await m.session()
      await application.query('BEGIN')
      // Equal to the target as it stands: were the target row not written here, an applier could still bring 'newer'.
      await application.query(`UPDATE users SET name = 'old 1' WHERE id = 1`)
      await applyRound(m.place, m.forward)
      await application.query('COMMIT')
      await m.drain()
      expect(await differences(m)).toEqual([])
    })

    test('an update whose target is absent is not lost when the applier inserts first', async (t) => {
      const m = await prepare(t, version)
      await logKey(m, copyOf(1))
      const applier = await openApplier(m, 'applier')
      await m.sql(`UPDATE users SET name = 'new' WHERE id = 1`)
      await applier.finish()
      await m.drain()
      expect(await person(m, 1)).toBe('new')
    })

    test('a delete that another applier sees is not undone by the one that had read the row', async (t) => {
      const m = await prepare(t, version)
      await logKey(m, copyOf(1))
      const applier = await openApplier(m, 'applier')
      await m.sql('DELETE FROM users WHERE id = 1')
      await applyRound(m.place, m.forward)
      // The first applier is to the second what a chunk is. (c1 is the entry that it has taken and not yet committed.)
      expect(await kinds(m)).toEqual(['c1', 'l1 waits'])
      await applier.finish()
      await m.drain()
      expect(await person(m, 1)).toBeUndefined()
    })

    test('a row inserted again while its target is being deleted stays', async (t) => {
      const m = await prepare(t, version)
      await m.backfill()
      await uncaptured(m, `DELETE FROM users WHERE id = 1`)
      const { copy } = m.database.dialect
      const application = await m.session()
      await m.database.transaction(
        async (tx) => {
          expect(await copy.copyKeys(tx, m.place.scope, m.forward, toKeys(1), 'skip')).toMatchObject({
            gone: [['1']],
          })
          // The target row is deleted and not yet committed.
          expect(await timed(() => application.query(`INSERT INTO users VALUES (1, 'again')`))).toBeLessThan(
            m.migration.sync.maxWaitMs + 100,
          )
        },
        { applying: 'm' },
      )
      expect(await kinds(m)).toEqual(['c1'])
      await m.drain()
      expect(await person(m, 1)).toBe('again')
    })

    test('a target row that the application is writing is left for later, whatever it ends with', async (t) => {
      for (const ending of ['COMMIT', 'ROLLBACK']) {
        const m = await prepare(t, version)
        await m.backfill()
        await m.sql(`UPDATE people SET full_name = 'stale' WHERE id = 1`)
        await logKey(m, copyOf(1), copyOf(2))
        const application = await m.session()
        await application.query('BEGIN')
        await application.query(`UPDATE users SET name = 'new' WHERE id = 1`)
        await applyRound(m.place, m.forward)
        expect(await kinds(m)).toEqual(['c1'])
        await application.query(ending)
        await m.drain()
        expect(await differences(m)).toEqual([])
      }
    })

    test('a row that leaves the filter meanwhile goes', async (t) => {
      const m = await prepare(t, version)
      await logKey(m, copyOf(1))
      const applier = await openApplier(m, 'applier')
      await m.sql('UPDATE users SET active = false WHERE id = 1')
      await applier.finish()
      await m.drain()
      expect(
        await differences(m).then((rows) => rows.filter((row) => String(row['row']).startsWith('(1,'))),
      ).toEqual([])
    })
  })

  describe('appliers', () => {
    test('two on one log share its keys, each copied once', async (t) => {
      const m = await prepare(
        t,
        version,
        `INSERT INTO users SELECT i, 'u' || i FROM generate_series(6, 3000) i`,
        { inlineRows: 0 },
      )
      await m.backfill()
      await m.sql(`UPDATE users SET name = name || '!'; DELETE FROM users WHERE id % 10 = 0`)
      const other = await m.open({})
      const rounds = await Promise.all([applyRound(m.place, m.forward), applyRound(other, m.forward)])
      expect(rounds.every((round) => round.settled > 0 && round.refused === 0)).toBe(true)
      await m.drain()
      expect(await differences(m)).toEqual([])
    })

    test('one that is killed in the middle loses nothing', async (t) => {
      const m = await prepare(
        t,
        version,
        `INSERT INTO users SELECT i, 'u' || i FROM generate_series(6, 150) i`,
        { inlineRows: 0 },
      )
      await m.backfill()
      await m.sql(`UPDATE users SET name = name || '!'`)
      await m.sql('DELETE FROM people WHERE id > 100')
      const keeper = await shutGate(m)
      const waiting = await m.open({ 'test.waits': 'yes' }, 'doomed')
      const round = applyRound(waiting, m.forward)
      round.catch(() => undefined)
      await standsStill(m, 'doomed')
      await m.sql(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'doomed'`)
      await expect(round).rejects.toThrow()
      await keeper.query('SELECT pg_advisory_unlock(4711)')
      expect(await m.log()).toHaveLength(150)
      await m.drain()
      expect(await differences(m)).toEqual([])
    })

    test('one refused key does not keep the others of its batch', async (t) => {
      const m = await prepare(t, version, `ALTER TABLE people ADD CONSTRAINT no_x CHECK (full_name <> 'x')`, {
        inlineRows: 0,
      })
      await m.backfill()
      await m.sql(`UPDATE users SET name = CASE id WHEN 3 THEN 'x' ELSE 'y' END`)
      const round = await applyRound(m.place, m.forward)
      expect(round).toEqual({ settled: 4, refused: 1 })
      expect(await m.log()).toEqual([
        { kind: 'c', key: '3', attempts: 1, waits: false, reason: 'SQLSTATE 23514, constraint no_x' },
      ])
      expect(await m.value(`SELECT count(*)::int FROM people WHERE full_name = 'y'`)).toBe(4)
    })
  })

  test('a lane attempt that was taken over writes nothing any more', async (t) => {
    const m = await prepare(t, version)
    await planRanges(m.place, [m.forward], 'backfill', 1)
    const zombie = await claimRange(m.place, m.forward)
    const live = await claimRange(m.place, m.forward)
    expect(live).toMatchObject({ id: zombie.id, fence: zombie.fence + 1 })
    await expect(copyChunk(m.place, m.forward, zombie, 10, never)).rejects.toMatchObject({
      code: 'BACKFILL.FENCED',
    })
    expect(await m.value('SELECT count(*)::int FROM people')).toBe(0)
    await copyChunk(m.place, m.forward, live, 10, never)
    expect(await differences(m)).toEqual([])
  })

  test('a lane waits for the last chunk of its older attempt instead of ending without the range', async (t) => {
    const m = await prepare(t, version)
    const chunk = await openChunk(m)
    const { ranges } = m.database.dialect
    const next = m.database.transaction(
      (tx) => ranges.claim(tx, m.place.scope, m.forward.id, 'backfill', 0),
      { lockTimeoutMs: 10_000 },
    )
    await eventually(() =>
      m.value(
        `SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE 'UPDATE "_crossfade_m"."ranges"%' AND wait_event_type = 'Lock'`,
      ),
    )
    await chunk.finish()
    // The chunk was the range's last one.
    expect(await next).toBeUndefined()
    expect(await m.value('SELECT rows_done FROM _crossfade_m.ranges WHERE done')).toBe('5')
  })

  test('a chunk that a killed backend leaves behind is repeated, and counted once', async (t) => {
    const m = await prepare(t, version)
    const keeper = await shutGate(m)
    const waiting = await m.open({ 'test.waits': 'yes' }, 'doomed')
    await planRanges(m.place, [m.forward], 'backfill', 1)
    const state = await claimRange(m.place, m.forward)
    const chunk = copyChunk(waiting, m.forward, state, 10, never)
    chunk.catch(() => undefined)
    await standsStill(m, 'doomed')
    await m.sql(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'doomed'`)
    await expect(chunk).rejects.toThrow()
    await keeper.query('SELECT pg_advisory_unlock(4711)')
    const again: { rows: number; written: number; done: boolean } = await copyChunk(
      m.place,
      m.forward,
      await claimRange(m.place, m.forward),
      10,
      never,
    )
    expect(again).toMatchObject({ rows: 5, written: 5, done: true })
    expect(await m.sql('SELECT rows_done, rows_written FROM _crossfade_m.ranges')).toEqual([
      { rows_done: '5', rows_written: '5' },
    ])
  })

  test('a chunk that meets a clash on the target goes on with what is free, and leaves the row that somebody holds', async (t) => {
    const m = await prepare(t, version)
    const application = await m.session()
    await application.query('BEGIN')
    await application.query(`INSERT INTO people VALUES (3, 'by hand')`)
    const done = await m.backfill({ ranges: 1, batchSize: 5 })
    expect(done).toEqual({ rows: 5, written: 4, refused: 1 })
    expect(await m.log()).toMatchObject([{ key: '3', attempts: 1, reason: 'SQLSTATE 55P03' }])
    await application.query('COMMIT')
    await m.drain()
    expect(await differences(m)).toEqual([])
  })
})
