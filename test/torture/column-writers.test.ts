import { setTimeout as pause } from 'node:timers/promises'
import { afterEach, describe, expect, test } from 'vitest'
import { everyTable } from '../../src/copy/groups.ts'
import { restoreColumns, valueSteps, withKeysProven } from '../../src/ddl/columns.ts'
import { completionSteps } from '../../src/ddl/expand-steps.ts'
import { proveKeys } from '../../src/ddl/prove-keys.ts'
import { attempt, runStep } from '../../src/ddl/run-step.ts'
import { swapNames, type SwapDirection } from '../../src/ddl/swap.ts'
import { applyChanges } from '../../src/sync/apply-changes.ts'
import {
  openSession,
  paceOf,
  watch,
  withBothSides,
  type BothSides,
  type SmallDefinition,
} from '../support/both-sides.ts'
import { isLong } from '../support/migrations.ts'
import { postgresVersions } from '../support/postgres.ts'
import { drainAtOnce, keepFilling, keepKilling } from '../support/pressed.ts'
import { retried } from '../support/retried.ts'
import { randomFrom } from '../support/seeded.ts'

const seed = Number(process.env['CROSSFADE_SEED'] ?? Date.now() % 1_000_000)
const writeForMs = isLong ? 120_000 : 10_000
const keys = 2_000

/**
 * `tag` is the application's own where `tag_written` says so, in the same statement; else it is what `email` says. `share` cannot be
 * computed where the score is 13.
 */
const schema = `
  CREATE TABLE users (id bigint PRIMARY KEY, name text, email text, score int NOT NULL, tag_written text, visits int NOT NULL DEFAULT 0) WITH (fillfactor = 80);
  INSERT INTO users SELECT i, 'f' || i || ' l' || i, 'e' || i, i % 10 FROM generate_series(1, ${keys}) i;`

function statement(r: () => number): string {
  const number = (most: number): number => Math.floor(r() * most)
  // Half of the time on keys that everybody wants.
  const key = (): number => 1 + number(r() < 0.5 ? 20 : keys * 1.2)
  const word = (): string => `w${number(1e6)}`
  const kind = r()
  if (kind < 0.2) return `UPDATE users SET name = '${word()} ${word()}' WHERE id = ${key()}`
  if (kind < 0.35) return `UPDATE users SET first = '${word()}' WHERE id = ${key()}`
  if (kind < 0.45) {
    const tag = word()
    return `UPDATE users SET tag = '${tag}', tag_written = '${tag}' WHERE id = ${key()}`
  }
  if (kind < 0.55) return `UPDATE users SET email = '${word()}', tag_written = NULL WHERE id = ${key()}`
  if (kind < 0.65) return `UPDATE users SET visits = visits + 1 WHERE id BETWEEN ${key()} AND ${key()}`
  if (kind < 0.7) return `UPDATE users SET score = ${r() < 0.1 ? 13 : number(12)} WHERE id = ${key()}`
  if (kind < 0.75) return `UPDATE users SET id = ${key()} WHERE id = ${key()}`
  if (kind < 0.82) return `DELETE FROM users WHERE id = ${key()}`
  if (kind < 0.9)
    return `INSERT INTO users (id, name, email, score) VALUES (${key()}, '${word()} ${word()}', '${word()}', 1) ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name`
  if (kind < 0.95)
    return `INSERT INTO users (id, first, last, score) VALUES (${key()}, '${word()}', '${word()}', 1) ON CONFLICT DO NOTHING`
  return `UPDATE users SET name = '${word()} ${word()}', first = 'lost' WHERE id = ${key()}`
}

/** One application's session: short transactions, some of which end in a rollback. */
async function write(
  m: BothSides,
  r: () => number,
  until: number,
): Promise<{ done: number; failures: string[] }> {
  let done = 0
  const failures: string[] = []
  const session = await openSession(m.test.url, 'writer')
  while (Date.now() < until)
    try {
      await session.query(`BEGIN ISOLATION LEVEL ${r() < 0.1 ? 'REPEATABLE READ' : 'READ COMMITTED'}`)
      for (let i = Math.floor(r() * 3); i >= 0; i--) await session.query(statement(r))
      await session.query(r() < 0.15 ? 'ROLLBACK' : 'COMMIT')
      done += 1
    } catch (error) {
      const code = (error as { code?: string }).code ?? ''
      if (!['23505', '40001', '40P01'].includes(code)) failures.push(`${code} ${String(error)}`)
      await session.query('ROLLBACK')
    }
  await session.close()
  return { done, failures }
}

const accounts = `
  CREATE TABLE accounts (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, balance int NOT NULL DEFAULT 0 CHECK (balance >= 0), label text);
  INSERT INTO accounts (label) SELECT 'a' || i FROM generate_series(1, ${keys}) i; CREATE INDEX accounts_rich ON accounts ((balance / 10)) WHERE balance > 10;
  CREATE TABLE entries (account int NOT NULL REFERENCES accounts ON DELETE CASCADE, amount int)`

const wider: SmallDefinition = {
  kind: 'column',
  mappings: [
    {
      source: 'accounts',
      key: { id: 'id' },
      columns: { id2: 'id::bigint', balance2: 'balance::bigint' },
      reverse: { columns: { id: 'id2::int', balance: 'balance2::int' } },
    },
  ],
  expand: {
    columns: ['id', 'balance'].map((replaces) => ({
      table: 'accounts',
      name: `${replaces}2`,
      type: 'bigint',
      notNull: true,
      replaces,
    })),
  },
  cutover: { mode: 'swap' },
}

interface Book {
  opened: number
  closed: number
  paid: number
  readonly failures: string[]
}

/** An application that knows one name: opens accounts with an entry each, closes some of its own, and pays into the others. */
async function keepBooks(m: BothSides, r: () => number, isOver: () => boolean): Promise<Book> {
  const book: Book = { opened: 0, closed: 0, paid: 0, failures: [] }
  const session = await openSession(m.test.url, 'writer')
  while (!isOver()) {
    try {
      const { rows } = await session.query(
        `WITH made AS (INSERT INTO accounts (label) VALUES ('new') RETURNING id) INSERT INTO entries SELECT id, 1 FROM made RETURNING account`,
      )
      book.opened += 1
      const paid = await session.query('UPDATE accounts SET balance = balance + 1 WHERE id = $1', [
        1 + Math.floor(r() * keys),
      ])
      book.paid += paid.rowCount ?? 0
      if (r() < 0.5) {
        const closed = await session.query('DELETE FROM accounts WHERE id = $1', [rows[0]?.['account']])
        book.closed += closed.rowCount ?? 0
      }
    } catch (error) {
      book.failures.push(`${(error as { code?: string }).code} ${String(error)}`)
    }
    await pause(2)
  }
  await session.close()
  return book
}

describe.each(postgresVersions())('writers of both sides of a row on PostgreSQL %s', (version) => {
  afterEach(({ task }) => {
    if (task.result?.state === 'fail') process.stderr.write(`torture: again with CROSSFADE_SEED=${seed}\n`)
  })

  test(`lose nothing while chunks run and workers die (seed ${seed})`, async (t) => {
    const m = await withBothSides(t, version, schema, {
      kind: 'column',
      mappings: [
        {
          source: 'users',
          key: { id: 'id' },
          columns: {
            first: "split_part(name, ' ', 1)",
            last: "nullif(split_part(name, ' ', 2), '')",
            tag: 'upper(email)',
            share: '100 / (score - 13)',
          },
          reverse: { columns: { name: "concat_ws(' ', first, last)" } },
        },
      ],
      expand: {
        columns: [
          { table: 'users', name: 'first', type: 'text', replaces: 'name' },
          { table: 'users', name: 'last', type: 'text', replaces: 'name' },
          { table: 'users', name: 'tag', type: 'text' },
          { table: 'users', name: 'share', type: 'int' },
        ],
      },
    })
    const place = await m.open({}, 'ours')
    const until = Date.now() + writeForMs
    const lanes = (): Promise<number> =>
      keepFilling(m, place, until, async (pass) => {
        if (pass % 2 !== 0) return
        // As if these had never been filled, so that there is always something to do.
        await m
          .sql(
            `BEGIN; SET LOCAL crossfade.applying = 'm'; UPDATE users SET first = NULL, last = NULL, share = NULL WHERE id % 3 = 0; COMMIT`,
          )
          .catch((error: unknown) => {
            if ((error as { code?: string }).code !== '40P01') throw error
          })
      })
    const applier = (): Promise<void> =>
      retried(async () => {
        await applyChanges(
          place,
          [...m.groups.forward, ...m.groups.reverse],
          paceOf(Math.max(0, until - Date.now())),
        )
        return Date.now() >= until
      })
    const [writers, passes, , killed] = await Promise.all([
      Promise.all(Array.from({ length: 4 }, (_, i) => write(m, randomFrom(seed + 1 + i), until))),
      lanes(),
      applier(),
      keepKilling(m, until, randomFrom(seed), { leastPauseSec: 0.05, pick: () => 'ours' }),
    ])

    expect(writers.flatMap((writer) => writer.failures)).toEqual([])
    const transactions = writers.reduce((sum, writer) => sum + writer.done, 0)
    process.stderr.write(
      `torture: ${transactions} transactions, ${passes} passes, ${killed} backends killed\n`,
    )
    expect(transactions).toBeGreaterThan(100)
    expect(killed).toBeGreaterThan(5)

    await m.sql('UPDATE users SET score = 1 WHERE score = 13')
    await m.backfill({ lanes: 2 })
    for (const group of [m.forward, m.reverse]) await drainAtOnce(m, group)
    const wrong = await m.sql(
      `SELECT * FROM users WHERE first IS DISTINCT FROM split_part(name, ' ', 1) OR last IS DISTINCT FROM nullif(split_part(name, ' ', 2), '')
         OR share IS DISTINCT FROM 100 / (score - 13) OR tag IS DISTINCT FROM coalesce(tag_written, upper(email)) OR first = 'lost' LIMIT 10`,
    )
    expect(wrong).toEqual([])
    const look = await m.database.transaction((tx) =>
      m.database.dialect.compare.range(tx, m.forward.links[0], { after: undefined, upTo: undefined }, 10),
    )
    expect(look.different).toEqual([])
    expect(look.compared).toBeGreaterThan(keys / 2)
  })

  test(`lose nothing while an int key becomes bigint, goes back and comes again (seed ${seed})`, async (t) => {
    const m = await withBothSides(t, version, accounts, wider)
    let isOver = false
    const writing = Array.from({ length: 3 }, (_, i) => keepBooks(m, randomFrom(seed + i), () => isOver))
    await m.backfill({ lanes: 2 })
    const { dialect } = m.database
    const prepare = async (): Promise<void> => {
      for (const step of [...completionSteps(dialect, m.migration), ...valueSteps(dialect, m.migration)])
        await runStep(m.place, step, everyTable(m.migration), watch)
    }
    const swap = (direction: SwapDirection): Promise<unknown> =>
      attempt(m.place, 'Exchange the names', everyTable(m.migration), watch, ({ lockTimeoutMs }) =>
        m.database.transaction((tx) => swapNames(m.place, tx, m.migration, direction), {
          lockTimeoutMs,
          applying: 'm',
        }),
      )
    /** Rounds there and back; what stands on the names is the same each time, and proven. */
    const standing = (): Promise<Record<string, unknown>[]> =>
      m.sql(
        `SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) AS says, convalidated FROM pg_constraint WHERE conrelid IN ('accounts'::regclass, 'entries'::regclass) AND contype <> 'n' AND conname NOT LIKE '\\_crossfade%' ORDER BY 1, 2`,
      )
    const before = await standing()
    const rounds = isLong ? 20 : 2
    for (let round = 1; round <= rounds; round++) {
      await prepare()
      await swap('to-new')
      expect(await standing()).toEqual(before)
      await pause(isLong ? 2_000 : 500)
      if (round === rounds) break
      await withKeysProven(m.place, m.migration, watch, () => swap('to-old'))
      await restoreColumns(m.place, watch)
      expect(await proveKeys(m.place, watch)).toEqual([])
      expect(await standing()).toEqual(before)
      await pause(isLong ? 2_000 : 500)
    }
    isOver = true
    const books = await Promise.all(writing)

    expect(books.flatMap(({ failures }) => failures)).toEqual([])
    const sum = (of: (book: Book) => number): number => books.reduce((all, book) => all + of(book), 0)
    const opened = sum((book) => book.opened)
    process.stderr.write(`torture: ${opened} accounts opened, ${sum((book) => book.paid)} payments\n`)
    expect(opened).toBeGreaterThan(50)
    await m.drain(m.reverse)
    expect(
      await m.sql(
        `SELECT count(*)::int AS accounts, sum(balance)::int AS paid, (SELECT count(*)::int FROM entries JOIN accounts a ON a.id = account) AS entries, (SELECT count(*)::int FROM entries) AS all_entries,
           count(*) FILTER (WHERE _crossfade_retired_id IS DISTINCT FROM id OR _crossfade_retired_balance IS DISTINCT FROM balance)::int AS apart, pg_typeof(max(id))::text AS type,
           max(id) <= (SELECT last_value FROM accounts_id_seq) AS ahead FROM accounts`,
      ),
    ).toEqual([
      {
        accounts: keys + opened - sum((book) => book.closed),
        paid: sum((book) => book.paid),
        entries: opened - sum((book) => book.closed),
        all_entries: opened - sum((book) => book.closed),
        apart: 0,
        type: 'bigint',
        ahead: true,
      },
    ])
  })
})
