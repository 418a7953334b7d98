import { performance } from 'node:perf_hooks'
import { describe, expect, test, type TestContext } from 'vitest'
import type { LogEntryInput } from '../../../src/database/index.ts'
import { copyChunk } from '../../../src/copy/copy-range.ts'
import { applyRound } from '../../../src/sync/apply-changes.ts'
import { claimRange, never, planRanges, toKeys, withBothSides, type BothSides, type Session, type SmallDefinition } from '../../support/both-sides.ts'
import { postgresVersions, type PostgresVersion } from '../../support/postgres.ts'
import { eventually } from '../../support/wait.ts'

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

const prepare = (t: TestContext, version: PostgresVersion, more = '', sync: SmallDefinition['sync'] = {}): Promise<BothSides> =>
  withBothSides(t, version, `${schema} ${more}`, { ...definition, sync })

const differences = (m: BothSides): Promise<Record<string, unknown>[]> =>
  m.differences('SELECT id, name FROM users WHERE active', 'SELECT id, full_name FROM people')

const person = (m: BothSides, id: number): Promise<unknown> => m.value('SELECT full_name FROM people WHERE id = $1', [id])

/** A lane's chunk over the whole table that has read its rows and stands still; `finish` lets it write and commit. */
async function openChunk(m: BothSides): Promise<{ finish(): Promise<void> }> {
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

async function shutGate(m: BothSides): Promise<Session> {
  const keeper = await m.session('keeper')
  await keeper.query('SELECT pg_advisory_lock(4711)')
  return keeper
}

async function standsStill(m: BothSides, application: string): Promise<void> {
  const asleep = `SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1 AND wait_event = 'PgSleep'`
  await eventually(() => m.value(asleep, [application]), { what: `${application} to stand still`, intervalMs: 3, timeoutMs: 3000 })
}

const kinds = async (m: BothSides): Promise<string[]> => (await m.log()).map(({ kind, key, waits }) => `${kind}${key}${waits ? ' waits' : ''}`)

/** A change of the source that nothing carries over: what an outage or a disabled trigger leaves behind. */
const uncaptured = (m: BothSides, change: string): Promise<unknown> => m.sql(`BEGIN; SET LOCAL crossfade.applying = 'm'; ${change}; COMMIT`)

/** Milliseconds that `work` took. */
async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now()
  await work()
  return performance.now() - startedAt
}

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

    test('a statement that meets the uncommitted rows of a chunk waits no longer than it may, and is applied later', async (t) => {
      const m = await prepare(t, version)
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
      expect(await timed(() => m.sql(`UPDATE users SET name = 'new' WHERE id = 1`))).toBeLessThan(m.migration.sync.maxWaitMs + 100)
      expect(await timed(() => m.sql('DELETE FROM users WHERE id = 2'))).toBeLessThan(m.migration.sync.maxWaitMs + 100)
      expect(await kinds(m)).toEqual(['c1', 'c2'])
      commit()
      await chunk
      expect(await differences(m)).not.toEqual([])
      await m.drain()
      expect(await differences(m)).toEqual([])
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
      expect(await timed(() => m.sql(`UPDATE users SET name = 'new' WHERE id = 1`))).toBeLessThan(m.migration.sync.maxWaitMs + 100)
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
          expect(await copy.copyKeys(tx, m.place.scope, m.forward, toKeys(1), 'skip')).toMatchObject({ gone: [['1']] })
          // The target row is deleted and not yet committed.
          expect(await timed(() => application.query(`INSERT INTO users VALUES (1, 'again')`))).toBeLessThan(m.migration.sync.maxWaitMs + 100)
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
      expect(await differences(m).then((rows) => rows.filter((row) => String(row['row']).startsWith('(1,')))).toEqual([])
    })
  })

  describe('the application never pays', () => {
    test('for a lock that somebody holds on the new side', async (t) => {
      const m = await prepare(t, version)
      await m.backfill()
      const reader = await m.session('reader')
      await reader.query('BEGIN')
      await reader.query('SELECT FROM people WHERE id = 1 FOR UPDATE')
      expect(await timed(() => m.sql(`UPDATE users SET name = 'new' WHERE id = 1`))).toBeLessThan(m.migration.sync.maxWaitMs + 100)
      expect(await timed(() => m.sql('DELETE FROM users WHERE id = 1'))).toBeLessThan(m.migration.sync.maxWaitMs + 100)
      expect(await kinds(m)).toEqual(['c1', 'c1'])
      expect(await m.value('SELECT count(*)::int FROM users')).toBe(4)
      await reader.query('COMMIT')
      await m.drain()
      expect(await differences(m)).toEqual([])
    })

    test('for a table lock on the new side', async (t) => {
      const m = await prepare(t, version)
      await m.backfill()
      const other = await m.session('other')
      await other.query('BEGIN')
      await other.query('LOCK TABLE people IN ACCESS EXCLUSIVE MODE')
      expect(await timed(() => m.sql(`UPDATE users SET name = 'new'`))).toBeLessThan(m.migration.sync.maxWaitMs + 100)
      await other.query('COMMIT')
      await m.drain()
      expect(await differences(m)).toEqual([])
    })

    test('for a new side that is gone', async (t) => {
      const m = await prepare(t, version)
      await m.backfill()
      await m.sql('DROP TABLE people')
      await m.sql(`UPDATE users SET name = 'new' WHERE id = 1; DELETE FROM users WHERE id = 2; INSERT INTO users VALUES (9, 'nine')`)
      expect(await kinds(m)).toEqual(['c1', 'c2', 'c9'])
    })

    test('for a constraint of the new side, also a deferred one', async (t) => {
      const m = await prepare(
        t,
        version,
        `CREATE TABLE known (name text PRIMARY KEY); INSERT INTO known SELECT 'old ' || i FROM generate_series(1, 5) i;
         ALTER TABLE people ADD CONSTRAINT short CHECK (length(full_name) < 20), ADD CONSTRAINT is_known FOREIGN KEY (full_name) REFERENCES known DEFERRABLE INITIALLY DEFERRED`,
      )
      await m.backfill()
      await m.sql(`UPDATE users SET name = repeat('x', 30) WHERE id = 1`)
      const application = await m.session()
      await application.query('BEGIN')
      await application.query(`UPDATE users SET name = 'unknown' WHERE id = 2`)
      await application.query('COMMIT')
      expect(await kinds(m)).toEqual(['c1', 'c2'])
      expect(await m.value('SELECT count(*)::int FROM users WHERE id IN (1, 2) AND name NOT LIKE $1', ['old%'])).toBe(2)
      await applyRound(m.place, m.forward)
      const state = await m.database.transaction((tx) => m.database.dialect.changeLog.state(tx, m.place.scope, m.forward))
      expect(state).toMatchObject({ pending: 2, stuck: expect.any(Number) as number })
      expect((await m.log()).find((entry) => entry.key === '1')?.reason).toBe('SQLSTATE 23514, constraint short')
      // A later change that the other side takes brings the row over and settles the old entry.
      await m.sql(`INSERT INTO known VALUES ('unknown'); UPDATE users SET name = 'old 1' WHERE id = 1`)
      await m.drain()
      expect(await differences(m)).toEqual([])
    })

    test('for a unique value that another row still holds on the new side', async (t) => {
      const m = await prepare(t, version, 'ALTER TABLE people ADD CONSTRAINT one_name UNIQUE (full_name)')
      await m.backfill()
      const other = await m.session('other')
      // Swapped in two statements of which the first clashes on the other side.
      await uncaptured(m, `UPDATE users SET name = 'free' WHERE id = 1`)
      await other.query(`UPDATE users SET name = 'old 1' WHERE id = 2`)
      expect(await kinds(m)).toEqual(['c2'])
      expect(await m.value('SELECT name FROM users WHERE id = 2')).toBe('old 1')
      await applyRound(m.place, m.forward)
      expect((await m.log())[0]?.reason).toBe('SQLSTATE 23505, constraint one_name')
      await other.query(`UPDATE users SET name = 'free' WHERE id = 1`)
      await m.drain()
      expect(await differences(m)).toEqual([])
    })

    test('for what autovacuum does to the change log', async (t) => {
      const m = await prepare(t, version)
      // VACUUM cuts a table's empty end off under ACCESS EXCLUSIVE: a trigger that must leave a key would wait, and fail.
      expect(await m.value(`SELECT reloptions @> '{vacuum_truncate=false}' FROM pg_class WHERE relname = 'changes_f1'`)).toBe(true)
    })

    test('for the end of our schema', async (t) => {
      const m = await prepare(t, version)
      const application = await m.session()
      await application.query('BEGIN')
      await application.query(`UPDATE users SET name = 'new' WHERE id = 1`)
      const drop = m.database.dialect.ddl.dropScope(m.database, m.place.scope, { lockTimeoutMs: 10_000 })
      drop.catch(() => undefined)
      await eventually(() => m.value(`SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'users'::regclass`))
      await application.query(`UPDATE users SET name = 'newer' WHERE id = 1`)
      await application.query('COMMIT')
      await drop
      await m.sql(`UPDATE users SET name = 'last' WHERE id = 1`)
      expect(await m.value(`SELECT count(*)::int FROM pg_namespace WHERE nspname = '_crossfade_m'`)).toBe(0)
    })
  })

  describe('every way to write is captured', () => {
    const ways: { name: string; write: (m: BothSides) => Promise<unknown> }[] = [
      { name: 'TRUNCATE', write: (m) => m.sql('TRUNCATE users') },
      { name: 'TRUNCATE and new rows', write: (m) => m.sql(`BEGIN; TRUNCATE users; INSERT INTO users VALUES (3, 'three'), (9, 'nine'); COMMIT`) },
      { name: 'INSERT … ON CONFLICT DO UPDATE', write: (m) => m.sql(`INSERT INTO users VALUES (1, 'one'), (9, 'nine') ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name`) },
      {
        name: 'MERGE',
        write: (m) =>
          m.sql(
            `MERGE INTO users u USING (VALUES (1, 'one'), (2, NULL), (9, 'nine')) AS v(id, name) ON u.id = v.id WHEN MATCHED AND v.name IS NULL THEN DELETE
             WHEN MATCHED THEN UPDATE SET name = v.name WHEN NOT MATCHED THEN INSERT (id, name) VALUES (v.id, v.name)`,
          ),
      },
      { name: 'COPY', write: (m) => m.sql(`COPY users (id, name) FROM PROGRAM 'printf "8\\\\teight\\\\n9\\\\tnine\\\\n"'`) },
      { name: 'a statement of more rows than are written at once', write: (m) => m.sql(`INSERT INTO users SELECT i, 'many ' || i FROM generate_series(10, 400) i; UPDATE users SET name = name || '!'`) },
      { name: 'a change of keys in a chain', write: (m) => m.sql('UPDATE users SET id = id + 100; UPDATE users SET id = id - 99') },
      { name: 'a data-modifying WITH', write: (m) => m.sql(`WITH gone AS (DELETE FROM users WHERE id < 3 RETURNING *) INSERT INTO users SELECT id + 20, name FROM gone`) },
      {
        name: 'a row trigger of the user that changes the row, and one that changes others',
        write: (m) =>
          m.sql(
            `CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.name := upper(NEW.name); RETURN NEW; END $$;
             CREATE TRIGGER a_before BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION loud();
             CREATE FUNCTION cascade() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE users SET name = 'touched' WHERE id = NEW.id + 1 AND pg_trigger_depth() < 3; DELETE FROM users WHERE id = NEW.id + 2; RETURN NULL; END $$;
             CREATE TRIGGER z_after AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION cascade();
             UPDATE users SET name = 'quiet' WHERE id = 1; INSERT INTO users VALUES (9, 'nine')`,
          ),
      },
      {
        name: 'a cascade from another table',
        write: (m) =>
          m.sql(
            `CREATE TABLE tenants (id int PRIMARY KEY); INSERT INTO tenants VALUES (1), (2); ALTER TABLE users ADD tenant int REFERENCES tenants ON DELETE CASCADE;
             UPDATE users SET tenant = 1 + id % 2; DELETE FROM tenants WHERE id = 1`,
          ),
      },
      { name: 'a session with session_replication_role = replica', write: (m) => m.sql(`SET session_replication_role = replica; UPDATE users SET name = 'replicated' WHERE id = 1; DELETE FROM users WHERE id = 2; RESET session_replication_role`) },
      { name: 'a repeatable read transaction', write: (m) => m.sql(`BEGIN ISOLATION LEVEL REPEATABLE READ; UPDATE users SET name = 'new' WHERE id = 1; DELETE FROM users WHERE id = 2; INSERT INTO users VALUES (9, 'nine'); COMMIT`) },
      { name: 'a serializable transaction', write: (m) => m.sql(`BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE users SET name = 'new' WHERE id = 1; DELETE FROM users WHERE id = 2; INSERT INTO users VALUES (9, 'nine'); COMMIT`) },
      {
        name: 'savepoints that are rolled back',
        write: (m) => m.sql(`BEGIN; UPDATE users SET name = 'kept' WHERE id = 1; SAVEPOINT s; UPDATE users SET name = 'lost' WHERE id IN (1, 2); DELETE FROM users WHERE id = 3; ROLLBACK TO s; INSERT INTO users VALUES (9, 'nine'); COMMIT`),
      },
      { name: 'another search path, time zone and string syntax', write: (m) => m.sql(`SET search_path = pg_catalog; SET TimeZone = 'Asia/Tokyo'; SET standard_conforming_strings = off; UPDATE public.users SET name = 'far' WHERE id = 1; RESET ALL`) },
    ]
    for (const { name, write } of ways)
      test(`${name} reaches the other side`, async (t) => {
        const m = await prepare(t, version)
        await m.backfill()
        await write(m)
        await m.drain()
        expect(await differences(m)).toEqual([])
        expect(await m.value('SELECT count(*)::int FROM people')).toBe(await m.value('SELECT count(*)::int FROM users WHERE active'))
      })

    test('a large statement and a serializable one only leave their keys', async (t) => {
      const m = await prepare(t, version, '', { inlineRows: 3 })
      await m.backfill()
      await m.sql(`UPDATE users SET name = 'few' WHERE id <= 3`)
      expect(await kinds(m)).toEqual([])
      await m.sql(`UPDATE users SET name = 'many' WHERE id <= 4`)
      expect((await kinds(m)).sort()).toEqual(['c1', 'c2', 'c3', 'c4'])
      await m.drain()
      await m.sql(`BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE users SET name = 'serial' WHERE id = 1; COMMIT`)
      expect(await kinds(m)).toEqual(['c1'])
      await m.drain()
      expect(await differences(m)).toEqual([])
    })

    test('in a repeatable read transaction, also what the other side did after its snapshot', async (t) => {
      const m = await prepare(t, version)
      const application = await m.session()
      await application.query('BEGIN ISOLATION LEVEL REPEATABLE READ')
      await application.query('SELECT FROM users')
      await m.backfill()
      // The target rows came after this snapshot and cannot be seen in it.
      await application.query(`UPDATE users SET name = 'new' WHERE id = 1`)
      await application.query('DELETE FROM users WHERE id = 2')
      await application.query('COMMIT')
      expect((await kinds(m)).sort()).toEqual(['c1', 'c2'])
      await m.drain()
      expect(await differences(m)).toEqual([])
    })

    test('a truncation waits in the log like any other key, and a row in it is no mismatch', async (t) => {
      const m = await prepare(t, version)
      await m.backfill()
      await m.sql('TRUNCATE users')
      expect(await m.log()).toMatchObject([{ kind: 't' }])
      const pending = await m.database.transaction((tx) => m.database.dialect.changeLog.pendingKeys(tx, m.place.scope, m.forward, toKeys(1, 99)))
      expect(pending).toEqual(toKeys(1, 99))
    })
  })

  describe('appliers', () => {
    test('two on one log share its keys, each copied once', async (t) => {
      const m = await prepare(t, version, `INSERT INTO users SELECT i, 'u' || i FROM generate_series(6, 3000) i`, { inlineRows: 0 })
      await m.backfill()
      await m.sql(`UPDATE users SET name = name || '!'; DELETE FROM users WHERE id % 10 = 0`)
      const other = await m.open({})
      const rounds = await Promise.all([applyRound(m.place, m.forward), applyRound(other, m.forward)])
      expect(rounds.every((round) => round.settled > 0 && round.refused === 0)).toBe(true)
      await m.drain()
      expect(await differences(m)).toEqual([])
    })

    test('one that is killed in the middle loses nothing', async (t) => {
      const m = await prepare(t, version, `INSERT INTO users SELECT i, 'u' || i FROM generate_series(6, 150) i`, { inlineRows: 0 })
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
      const m = await prepare(t, version, `ALTER TABLE people ADD CONSTRAINT no_x CHECK (full_name <> 'x')`, { inlineRows: 0 })
      await m.backfill()
      await m.sql(`UPDATE users SET name = CASE id WHEN 3 THEN 'x' ELSE 'y' END`)
      const round = await applyRound(m.place, m.forward)
      expect(round).toEqual({ settled: 4, refused: 1 })
      expect(await m.log()).toEqual([{ kind: 'c', key: '3', attempts: 1, waits: false, reason: 'SQLSTATE 23514, constraint no_x' }])
      expect(await m.value(`SELECT count(*)::int FROM people WHERE full_name = 'y'`)).toBe(4)
    })
  })

  test('both directions at once do not send a change round', async (t) => {
    const m = await prepare(t, version)
    await m.backfill()
    const { triggers } = m.database.dialect
    await m.database.transaction((tx) => triggers.install(tx, m.place.scope, m.reverse, 'copy', m.migration.sync))
    await m.sql(`UPDATE users SET name = 'from old' WHERE id = 1; INSERT INTO users VALUES (8, 'eight')`)
    await m.sql(`UPDATE people SET full_name = 'from new' WHERE id = 2; INSERT INTO people VALUES (9, 'nine'); DELETE FROM people WHERE id = 3`)
    expect(await differences(m)).toEqual([])
    expect(await kinds(m)).toEqual([])
    expect(await m.log(m.reverse)).toMatchObject([{ kind: 'c', key: '3' }])
    await m.drain(m.reverse)
    await m.drain()
    expect(await differences(m)).toEqual([])
    expect(await m.sql('SELECT id, name FROM users WHERE id IN (1, 2, 3, 8, 9) ORDER BY id')).toEqual([
      { id: '1', name: 'from old' },
      { id: '2', name: 'from new' },
      { id: '8', name: 'eight' },
      { id: '9', name: 'nine' },
    ])
  })

  describe('the way back of a split', () => {
    const split = (t: TestContext): Promise<BothSides> =>
      withBothSides(
        t,
        version,
        `CREATE TABLE users (id int PRIMARY KEY, name text, city text); CREATE TABLE people (id int PRIMARY KEY, name text); CREATE TABLE addresses (person int PRIMARY KEY, city text);
         INSERT INTO users SELECT i, 'n' || i, 'c' || i FROM generate_series(1, 5) i`,
        {
          mappings: [
            { source: 'users', target: 'people', key: { id: 'id' }, columns: { name: true }, reverse: { columns: { name: true } } },
            { source: 'users', target: 'addresses', key: { id: 'person' }, columns: { city: true }, reverse: { columns: { city: true } } },
          ],
        },
      )
    const turn = async (m: BothSides): Promise<void> => {
      await m.backfill()
      const { triggers } = m.database.dialect
      await m.database.transaction(async (tx) => {
        await triggers.remove(tx, m.place.scope, m.forward)
        await triggers.install(tx, m.place.scope, m.reverse, 'copy', m.migration.sync)
      })
    }
    const both = (m: BothSides): Promise<Record<string, unknown>[]> =>
      m.differences('SELECT p.id, p.name, a.city FROM people p LEFT JOIN addresses a ON a.person = p.id', 'SELECT id, name, city FROM users')

    test('joins the parts again, whichever of them changes', async (t) => {
      const m = await split(t)
      await turn(m)
      await m.sql(`UPDATE people SET name = 'new' WHERE id = 1; UPDATE addresses SET city = 'new' WHERE person = 1; DELETE FROM addresses WHERE person = 2; DELETE FROM people WHERE id = 3`)
      await m.sql(`INSERT INTO people VALUES (6, 'six'); INSERT INTO addresses VALUES (6, 'c6'), (7, 'nobody')`)
      // Fresh at once, and once more by the applier.
      expect(await both(m)).toEqual([])
      await m.drain(m.reverse)
      expect(await both(m)).toEqual([])
    })

    test('two writers that hold one part each lose neither', async (t) => {
      const m = await split(t)
      await turn(m)
      const [one, two] = [await m.session('one'), await m.session('two')]
      await one.query('BEGIN')
      await two.query('BEGIN')
      await one.query(`UPDATE people SET name = 'new' WHERE id = 1`)
      await two.query(`UPDATE addresses SET city = 'new' WHERE person = 1`)
      await one.query(`INSERT INTO people VALUES (6, 'six')`)
      await two.query(`INSERT INTO addresses VALUES (6, 'c6')`)
      await two.query('COMMIT')
      // Looked at while the other is still open: the person is not there yet.
      await applyRound(m.place, m.reverse)
      await one.query('COMMIT')
      await m.drain(m.reverse)
      expect(await both(m)).toEqual([])
    })
  })

  test('a lane attempt that was taken over writes nothing any more', async (t) => {
    const m = await prepare(t, version)
    await planRanges(m.place, [m.forward], 'backfill', 1)
    const zombie = await claimRange(m.place, m.forward)
    const live = await claimRange(m.place, m.forward)
    expect(live).toMatchObject({ id: zombie.id, fence: zombie.fence + 1 })
    await expect(copyChunk(m.place, m.forward, zombie, 10, never)).rejects.toMatchObject({ code: 'BACKFILL.FENCED' })
    expect(await m.value('SELECT count(*)::int FROM people')).toBe(0)
    await copyChunk(m.place, m.forward, live, 10, never)
    expect(await differences(m)).toEqual([])
  })

  test('a lane waits for the last chunk of its older attempt instead of ending without the range', async (t) => {
    const m = await prepare(t, version)
    const chunk = await openChunk(m)
    const { ranges } = m.database.dialect
    const next = m.database.transaction((tx) => ranges.claim(tx, m.place.scope, m.forward.id, 'backfill', 0), { lockTimeoutMs: 10_000 })
    await eventually(() => m.value(`SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE 'UPDATE "_crossfade_m"."ranges"%' AND wait_event_type = 'Lock'`))
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
    const again: { rows: number; written: number; done: boolean } = await copyChunk(m.place, m.forward, await claimRange(m.place, m.forward), 10, never)
    expect(again).toMatchObject({ rows: 5, written: 5, done: true })
    expect(await m.sql('SELECT rows_done, rows_written FROM _crossfade_m.ranges')).toEqual([{ rows_done: '5', rows_written: '5' }])
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
