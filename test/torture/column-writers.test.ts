import { afterEach, describe, expect, test } from 'vitest'
import { applyChanges } from '../../src/sync/apply-changes.ts'
import { openSession, paceOf, withBothSides, type BothSides } from '../support/both-sides.ts'
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
})
