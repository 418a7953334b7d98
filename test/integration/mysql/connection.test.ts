import { createConnection, createServer, type AddressInfo, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { afterEach, describe, expect, test, type TestContext } from 'vitest'
import type { Transaction } from '../../../src/database/index.ts'
import { openDatabase, openForExamination, toCrossfadeError } from '../../../src/database/index.ts'
import { mysqlServers, withMysql } from '../../support/mysql.ts'
import { eventually } from '../../support/wait.ts'

type Opened = Awaited<ReturnType<typeof openForExamination>>

const opened: Opened[] = []
afterEach(async () => {
  await Promise.all(opened.splice(0).map((database) => database.close()))
})

async function open(url: string): Promise<Opened> {
  const database = await openForExamination('default', { url, maxConnections: 2 })
  opened.push(database)
  return database
}

/** What a promise fails with, as it leaves us. */
async function failure(promise: Promise<unknown>): Promise<ReturnType<typeof toCrossfadeError>> {
  return promise.then(
    () => expect.fail('nothing failed'),
    (error: unknown) => toCrossfadeError(error, 'It'),
  )
}

const first = async (tx: Transaction, sql: string): Promise<string | null | undefined> =>
  Object.values((await tx.query(sql)).rows[0] ?? {})[0]

describe.each(mysqlServers())('$engine', (server) => {
  test('values arrive as the server’s own text, and leave as they are', async (t) => {
    const { url, pool } = await withMysql(t, server)
    await pool.query(
      `CREATE TABLE v (id bigint unsigned PRIMARY KEY, d decimal(40,20), at datetime(6), zero date, raw binary(4), bits bit(9), name varchar(40) CHARACTER SET latin1, doc json);
       SET SESSION sql_mode = ''; INSERT INTO v VALUES (18446744073709551615, 12345678901234567890.01234567890123456789, '2024-02-29 12:00:00.123456', '0000-00-00', X'61000000', b'100000001', 'é', '{"a": 1.5}')`,
    )
    const database = await open(url)
    const hostile = `it's "?" \\ \` -- ? /* ? */ \0 \n ü 𝒳`
    await database.transaction(async (tx) => {
      expect((await tx.query('SELECT * FROM v')).rows).toEqual([
        {
          id: '18446744073709551615',
          d: '12345678901234567890.01234567890123456789',
          at: '2024-02-29 12:00:00.123456',
          zero: '0000-00-00',
          raw: '0x61000000',
          bits: '0x0101',
          name: 'é',
          doc: '{"a": 1.5}',
        },
      ])
      const { rows } = await tx.query(
        `SELECT ? AS a, '? \\' ?' AS b, "?" AS c, ? AS \`?\`, HEX(?) AS e /* ? */ -- ?\n, ? IS NULL AS f # ?`,
        [hostile, 9_007_199_254_740_993n, Buffer.from([0, 255]), null],
      )
      expect(rows).toEqual([{ a: hostile, b: `? ' ?`, c: '?', '?': '9007199254740993', e: '00FF', f: '1' }])
      // An UPDATE that changes nothing has found its row all the same.
      expect(
        (await tx.query('UPDATE v SET bits = bits WHERE id = ?', [18446744073709551615n])).rowCount,
      ).toBe(1)
    })
    const misbound = await failure(database.transaction((tx) => tx.query('SELECT ?', [['a', 'b']])))
    expect(misbound).toMatchObject({ kind: 'bug' })
  })

  test('every transaction has our settings, whatever the connection had before, and its own instant where it asks', async (t) => {
    const { url, pool } = await withMysql(t, server)
    await pool.query(
      'CREATE TABLE v (id int PRIMARY KEY AUTO_INCREMENT, short varchar(2)); INSERT INTO v VALUES (1, NULL)',
    )
    const database = await open(url)
    await database.transaction(
      async (tx) => {
        expect(await first(tx, 'SELECT @crossfade_applying')).toBe('orders')
        expect(await first(tx, 'SELECT @@SESSION.innodb_lock_wait_timeout')).toBe('3')
        await tx.query(
          "SET SESSION sql_mode = '', SESSION time_zone = '+09:00', SESSION lock_wait_timeout = 77",
        )
      },
      { applying: 'orders', lockTimeoutMs: 2100 },
    )
    await database.transaction(async (tx) => {
      expect(await first(tx, 'SELECT CONCAT(@@SESSION.time_zone, @@SESSION.lock_wait_timeout)')).toBe(
        '+00:001',
      )
      expect(await first(tx, 'SELECT @crossfade_applying')).toBeNull()
      await tx.query('INSERT INTO v VALUES (0, NULL)') // no counter takes the place of a zero
      expect(await first(tx, 'SELECT count(*) FROM v WHERE id = 0')).toBe('1')
      await pool.query('INSERT INTO v VALUES (10, NULL)')
      expect(await first(tx, 'SELECT count(*) FROM v WHERE id = 10')).toBe('1')
    })
    await database.transaction(
      async (tx) => {
        await pool.query('INSERT INTO v VALUES (11, NULL)')
        expect(await first(tx, 'SELECT count(*) FROM v WHERE id = 11')).toBe('0')
      },
      { snapshot: true, readOnly: true },
    )
    const tooLong = await failure(
      database.transaction((tx) => tx.query("INSERT INTO v VALUES (12, 'secret')")),
    )
    expect(tooLong).toMatchObject({
      code: 'DATABASE.ROW_REJECTED',
      details: { errno: 1406, column: 'short' },
    })
    const readOnly = await failure(
      database.transaction((tx) => tx.query('DELETE FROM v'), { readOnly: true }),
    )
    expect(readOnly).toMatchObject({ code: 'DATABASE.STATEMENT_REFUSED', details: { errno: 1792 } })
  })

  test('a proxy that changes a setting on its way is noticed before anything runs', async (t) => {
    const { url } = await withMysql(t, server)
    const through = await relay(t, url, (sent) =>
      replaced(sent, "lc_time_names = 'en_US'", "lc_time_names = 'de_DE'"),
    )
    const database = await open(through.url)
    let hasRun = false
    const error = await failure(database.transaction(async () => void (hasRun = true)))
    expect(error).toMatchObject({
      code: 'DATABASE.SESSION_CHANGED',
      details: { settings: ['lc_time_names'] },
    })
    expect(hasRun).toBe(false)
  })

  test('a statement that failed is not followed by others, and nothing of its transaction stays', async (t) => {
    const { url, pool } = await withMysql(t, server)
    await pool.query('CREATE TABLE v (id int PRIMARY KEY, email varchar(40), UNIQUE KEY mail (email))')
    const database = await open(url)
    const swallowed = await failure(
      database.transaction(async (tx) => {
        await tx.query("INSERT INTO v VALUES (1, 'a')")
        await tx.query('INSERT INTO v VALUES (1, NULL)').catch(() => undefined)
      }),
    )
    expect(swallowed).toMatchObject({ code: 'INTERNAL.ERROR_SWALLOWED' })
    await database.transaction(async (tx) => {
      await tx.query("INSERT INTO v VALUES (2, 'b')")
      await tx.query('SAVEPOINT s')
      const taken = await failure(tx.query("INSERT INTO v VALUES (3, 'b')"))
      expect(taken).toMatchObject({ code: 'DATABASE.ROW_REJECTED' })
      expect(taken.message).toMatch(/error 1062, SQLSTATE 23000, constraint (v\.)?mail\)\.$/)
      expect(await failure(tx.query('SELECT 1'))).toMatchObject({ code: 'INTERNAL.ERROR_SWALLOWED' })
      await tx.query('ROLLBACK TO SAVEPOINT s')
    })
    const [rows] = await pool.query('SELECT id FROM v')
    expect(rows).toEqual([{ id: 2 }])
    const ended = await failure(database.transaction((tx) => tx.query('CREATE TABLE w (id int)')))
    expect(ended).toMatchObject({ code: 'INTERNAL.TRANSACTION_ENDED' })
  })

  test('errors say whose move it is, with names and never with values', async (t) => {
    const { url, pool, name } = await withMysql(t, server)
    await pool.query(
      `CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE v (id int PRIMARY KEY, n int NOT NULL, p int, CONSTRAINT positive CHECK (n > 0), CONSTRAINT parent FOREIGN KEY (p) REFERENCES p (id));
       INSERT INTO p VALUES (1); INSERT INTO v VALUES (1, 1, 1);
       CREATE TRIGGER guard BEFORE DELETE ON v FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'secret 42'`,
    )
    const database = await open(url)
    const says = async (sql: string): Promise<string> => {
      const { code, message } = await failure(database.transaction((tx) => tx.query(sql)))
      expect(message).not.toContain('secret')
      return `${code} ${message.replaceAll(name, 'here')}`
    }
    const isMysql = server.engine === 'mysql'
    expect(await says(`INSERT INTO v VALUES ('secret', 1, 1)`)).toBe(
      'DATABASE.ROW_REJECTED It: a row was refused (error 1366, SQLSTATE ' +
        (isMysql ? 'HY000' : '22007') +
        ', column id).',
    )
    expect(await says(`INSERT INTO v VALUES ('secret'' for column z at row 9', 1, 1)`)).toContain(
      ', column id).',
    )
    expect(await says('INSERT INTO v VALUES (2, NULL, 1)')).toContain('SQLSTATE 23000, column n).')
    expect(await says('INSERT INTO v VALUES (2, 0, 1)')).toMatch(
      /^DATABASE.ROW_REJECTED .*, constraint positive\)\.$/,
    )
    expect(await says('INSERT INTO v VALUES (2, 1, 7)')).toContain('constraint parent')
    expect(await says('DELETE FROM v')).toBe(
      'DATABASE.ROW_REJECTED It: a row was refused (error 1644, SQLSTATE 45000).',
    )
    expect(await says("SELECT 'secret' secret secret")).toMatch(
      /^DATABASE.STATEMENT_REFUSED It: refused \(error 1064/,
    )
    expect(await says('SELECT missing FROM v')).toMatch(
      /^DATABASE.STATEMENT_REFUSED It: Unknown column 'missing'/,
    )
    const rejected = await failure(
      database.transaction((tx) => tx.query('SELECT * FROM v WHERE id = 1 FOR UPDATE NOWAIT')),
    ).catch(() => undefined)
    expect(rejected).toBeUndefined()

    const holder = await pool.getConnection()
    await holder.query('BEGIN; SELECT * FROM v FOR UPDATE')
    expect(await says('SELECT * FROM v FOR UPDATE')).toMatch(
      /^DATABASE.LOCK_NOT_AVAILABLE It: a lock was not free in time \(error 1205/,
    )
    expect(await says('SELECT * FROM v FOR UPDATE NOWAIT')).toMatch(/^DATABASE.LOCK_NOT_AVAILABLE/)
    await holder.query('ROLLBACK')
    holder.release()

    await pool.query(
      `CREATE USER '${name}'@'%' IDENTIFIED BY 'pw?/@:'; GRANT SELECT ON ${name}.p TO '${name}'@'%'`,
    )
    t.onTestFinished(() => pool.query(`DROP USER '${name}'`).then(() => undefined))
    const as = (password: string, more = ''): string =>
      url.replace('root@', `${name}:${encodeURIComponent(password)}@`) + more
    const weak = await open(as('pw?/@:'))
    await weak.transaction((tx) => tx.query('SELECT * FROM p'))
    expect(await failure(weak.transaction((tx) => tx.query('SELECT * FROM v')))).toMatchObject({
      code: 'DATABASE.PRIVILEGE_MISSING',
    })
    const wrong = await failure((await open(as('wrong'))).transaction(async () => undefined))
    expect(wrong).toMatchObject({ code: 'DATABASE.LOGIN_REFUSED', kind: 'refused' })
    expect(wrong.message).not.toContain('wrong')
    expect(
      await failure((await open(url.replace(name, 'nowhere'))).transaction(async () => undefined)),
    ).toMatchObject({ code: 'DATABASE.LOGIN_REFUSED' })
    expect(
      await failure((await open('mysql://root@127.0.0.1:1/x')).transaction(async () => undefined)),
    ).toMatchObject({ code: 'DATABASE.UNREACHABLE' })
  })

  test('what takes too long is ended on the server, and its connection goes', async (t) => {
    const { url, pool } = await withMysql(t, server)
    const database = await open(url)
    const began = Date.now()
    const error = await failure(
      database.transaction((tx) => tx.query('SELECT SLEEP(30)'), { statementTimeoutMs: 200 }),
    )
    expect(error).toMatchObject({ code: 'DATABASE.FAILED', kind: 'unavailable', details: { errno: 1317 } })
    expect(Date.now() - began).toBeLessThan(10_000)
    await eventually(async () => {
      const [rows] = await pool.query('SHOW PROCESSLIST')
      return !JSON.stringify(rows).includes('SLEEP')
    })
    await database.transaction(async (tx) => {
      expect(await first(tx, 'SELECT 1')).toBe('1')
    })
  })

  test('an answer to COMMIT that was lost is neither done nor failed', async (t) => {
    const { url, pool } = await withMysql(t, server)
    await pool.query('CREATE TABLE v (id int PRIMARY KEY)')
    const through = await relay(t, url, (sent, loseAnswer) => {
      if (sent.toString('latin1').endsWith('COMMIT')) loseAnswer()
      return sent
    })
    const database = await open(through.url)
    const error = await failure(database.transaction((tx) => tx.query('INSERT INTO v VALUES (1)')))
    expect(error).toMatchObject({ code: 'DATABASE.MAY_HAVE_COMMITTED', kind: 'unavailable' })
    const [rows] = await pool.query('SELECT id FROM v')
    expect(rows).toEqual([{ id: 1 }])
    const lost = await failure(
      database.transaction(async (tx) => {
        const id = await first(tx, 'SELECT CONNECTION_ID()')
        await pool.query(`KILL ${id}`)
        await tx.query('SELECT 1')
      }),
    )
    expect(lost).toMatchObject({ code: 'DATABASE.UNREACHABLE', kind: 'unavailable' })
    // The same where the driver has seen the end before the next statement.
    const seen = await failure(
      database.transaction(async (tx) => {
        await pool.query(`KILL ${await first(tx, 'SELECT CONNECTION_ID()')}`)
        await eventually(() => tx.query('SELECT 1').then(undefined, () => true))
        await delay(100)
        await tx.query('ROLLBACK TO SAVEPOINT none')
      }),
    )
    expect(seen).toMatchObject({ code: 'DATABASE.UNREACHABLE', kind: 'unavailable' })
  })
})

test('a URL that is not understood is refused without being repeated, and migrations are refused on these engines', async () => {
  for (const url of [
    'mysql://me:s3cret@host/',
    'mysql://me:s3cret@host/app?multipleStatements=true',
    'mariadb://me:s3cret@host/app?ssl-mode=MAYBE',
    'mysql://me:s3cret%@host/app',
  ]) {
    const error = await failure(openForExamination('default', { url }))
    expect(error).toMatchObject({ code: 'DATABASE.INVALID_URL', kind: 'input' })
    expect(error.message + error.mend).not.toMatch(/s3cret|host\/app/)
  }
  expect(await failure(openDatabase('default', { url: 'mysql://me@host/app' }))).toMatchObject({
    code: 'DATABASE.NO_MIGRATIONS',
    kind: 'refused',
  })
})

/** The same bytes with a text of the same length in the place of another one. */
const replaced = (sent: Buffer, text: string, by: string): Buffer =>
  Buffer.from(sent.toString('latin1').replace(text, by), 'latin1')

/** A proxy on the way to the server: `pass` sees what the client sends, may change it, and may have its answer lost with the connection. */
async function relay(
  t: TestContext,
  url: string,
  pass: (sent: Buffer, loseAnswer: () => void) => Buffer,
): Promise<{ url: string }> {
  const sockets = new Set<Socket>()
  const listener = createServer((client) => {
    const upstream = createConnection(Number(new URL(url).port), '127.0.0.1')
    const end = (): void => {
      client.destroy()
      upstream.destroy()
    }
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.on('error', end)
      socket.on('close', end)
    }
    let isLost = false
    client.on('data', (sent) => void upstream.write(pass(sent, () => void (isLost = true))))
    upstream.on('data', (answer) => (isLost ? end() : void client.write(answer)))
  })
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve))
  t.onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    listener.close()
  })
  return { url: url.replace(/:\d+\//, `:${(listener.address() as AddressInfo).port}/`) }
}
