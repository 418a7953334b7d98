import { describe, expect, test, type TestContext } from 'vitest'
import { assertCarried } from '../../../src/ddl/carried.ts'
import { proveKeys } from '../../../src/ddl/prove-keys.ts'
import { readDependents } from '../../../src/ddl/dependents.ts'
import { swapNames, type SwapDirection } from '../../../src/ddl/swap.ts'
import { makePlan } from '../../../src/plan/make-plan.ts'
import type { Finding } from '../../../src/plan/checks.ts'
import { attempt } from '../../../src/ddl/run-step.ts'
import { resolveGroups } from '../../../src/copy/groups.ts'
import { applyRound } from '../../../src/sync/apply-changes.ts'
import { timed } from '../../support/held-users.ts'
import { eventually } from '../../support/wait.ts'
import {
  watch,
  withBothSides,
  type Session,
  type BothSides,
  type SmallDefinition,
} from '../../support/both-sides.ts'
import { postgresVersions, type PostgresVersion } from '../../support/postgres.ts'

/** What knows a table by its oid, and not by its name, when names are exchanged. */

const users = `CREATE TABLE users (id int PRIMARY KEY, email text NOT NULL UNIQUE, name varchar(80) NOT NULL, boss int);
  INSERT INTO users SELECT i, i || '@x', 'n' || i FROM generate_series(1, 300) i`

const definition = (change: Partial<SmallDefinition> = {}): SmallDefinition => ({
  mappings: [
    {
      source: 'users',
      target: 'people',
      key: { id: 'id' },
      columns: { email: true, name: true, boss: true },
      reverse: { columns: { email: true, name: true, boss: true } },
    },
  ],
  cutover: { mode: 'swap' },
  expand: {
    tables: [
      {
        table: 'people',
        columns: {
          id: 'bigint',
          email: 'text NOT NULL',
          name: 'varchar(80) NOT NULL',
          boss: 'int',
          seen: 'int NOT NULL DEFAULT 0',
        },
        primaryKey: ['id'],
        indexes: [{ name: 'people_email', on: '(email)', unique: true }],
      },
    ],
  },
  ...change,
})

/** One of each kind that follows. */
const followers = `
  CREATE TABLE orders (id int PRIMARY KEY, user_id int NOT NULL CONSTRAINT orders_user REFERENCES users ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED);
  COMMENT ON CONSTRAINT orders_user ON orders IS 'whose it is';
  INSERT INTO orders SELECT i, i FROM generate_series(1, 100) i;
  CREATE TABLE mails (email text, CONSTRAINT mails_user FOREIGN KEY (email) REFERENCES users (email) ON UPDATE CASCADE);
  ALTER TABLE mails DROP CONSTRAINT mails_user, ADD CONSTRAINT mails_user FOREIGN KEY (email) REFERENCES users (email) ON UPDATE CASCADE NOT VALID;
  CREATE VIEW names WITH (security_barrier, check_option = local) AS SELECT name AS called, email FROM users WHERE name <> '';
  ALTER VIEW names ALTER COLUMN called SET DEFAULT 'nobody'; COMMENT ON VIEW names IS 'what they are called'; GRANT SELECT, INSERT (called) ON names TO PUBLIC;
  CREATE VIEW long_names AS SELECT called FROM names WHERE length(called) > 3;
  CREATE FUNCTION name_of(mail text) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER BEGIN ATOMIC SELECT name FROM users u WHERE u.email = mail; END;
  REVOKE EXECUTE ON FUNCTION name_of FROM PUBLIC;
  CREATE TABLE notes (tenant text); ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
  CREATE POLICY mine ON notes AS RESTRICTIVE FOR UPDATE TO PUBLIC USING (tenant IN (SELECT email FROM users)) WITH CHECK (EXISTS (SELECT FROM users u WHERE u.email = tenant));
  CREATE TABLE inbox (email text, name text); CREATE RULE fill AS ON INSERT TO inbox DO INSTEAD UPDATE users SET name = new.name WHERE users.email = new.email;
  COMMENT ON RULE fill ON inbox IS 'renames'; ALTER TABLE inbox ENABLE ALWAYS RULE fill;
  CREATE PUBLICATION p FOR TABLE users (id, email) WHERE (email <> ''), orders WITH (publish = 'insert')`

const prepare = async (
  t: TestContext,
  version: PostgresVersion,
  more: string,
  change = definition(),
): Promise<BothSides> => {
  const m = await withBothSides(t, version, `${users}; ${more}`, change)
  await m.backfill()
  return m
}

const swap = (m: BothSides, direction: SwapDirection): Promise<string> =>
  m.database.transaction((tx) => swapNames(m.place, tx, m.migration, direction), {
    lockTimeoutMs: 1000,
    applying: 'm',
  })

const inventory = (m: BothSides): Promise<string[]> =>
  m.database.transaction((tx) => m.database.dialect.catalog.inventory(tx))

const findings = async (m: BothSides): Promise<Finding[]> => [
  ...(await makePlan(m.place, m.migration)).findings,
]

const followerNames = ['inbox', 'mails_user', 'mine', 'name_of', 'names', 'orders_user', 'p']

/** By name, the table that each of them means: true where it is the new one. */
const meansNew = (m: BothSides): Promise<Record<string, unknown>[]> =>
  m.sql(
    `WITH new AS (SELECT attrelid AS oid FROM pg_attribute WHERE attname = 'seen' AND attrelid IN (SELECT oid FROM pg_class WHERE relkind = 'r')),
     deps AS (SELECT conname::text AS name, confrelid AS oid FROM pg_constraint WHERE contype = 'f'
       UNION SELECT c.relname, d.refobjid FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class c ON c.oid = r.ev_class WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> c.oid
       UNION SELECT p.proname, d.refobjid FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_class'::regclass
       UNION SELECT p.polname, d.refobjid FROM pg_depend d JOIN pg_policy p ON p.oid = d.objid WHERE d.classid = 'pg_policy'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> p.polrelid
       UNION SELECT p.pubname, r.prrelid FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid <> 'orders'::regclass)
     SELECT name, deps.oid IN (SELECT oid FROM new) AS is_new FROM deps WHERE name IN (${followerNames.map((name) => `'${name}'`).join()}) ORDER BY name`,
  )

const all = (isNew: boolean): object[] => followerNames.map((name) => ({ name, is_new: isNew }))

describe.each(postgresVersions())('dependents on PostgreSQL %s', (version) => {
  test('a swap takes along what points at the table, and back, and the catalogue is the same', async (t) => {
    const m = await prepare(t, version, followers)
    expect((await findings(m)).filter(({ severity }) => severity === 'refusal')).toEqual([])
    await m.database.transaction((tx) => assertCarried(m.place, tx, m.migration))
    const before = await inventory(m)
    const ofOthers = (lines: readonly string[]): string[] =>
      lines.filter(
        (line) =>
          !/users|people|_crossfade|publication/.test(line) ||
          /constraint (orders|mails)|function name_of/.test(line),
      )
    expect(await meansNew(m)).toEqual(all(false))

    await swap(m, 'to-new')
    expect(await meansNew(m)).toEqual(all(true))
    expect(
      await m.sql(`SELECT conname, convalidated FROM pg_constraint WHERE contype = 'f' ORDER BY 1`),
    ).toEqual([
      { conname: 'mails_user', convalidated: false },
      { conname: 'orders_user', convalidated: false },
    ])
    expect(await proveKeys(m.place, watch)).toEqual([])
    expect(ofOthers(await inventory(m))).toEqual(ofOthers(before))
    await m.sql(
      `INSERT INTO users (id, email, name) VALUES (1000, 'new@x', 'Newcomer'); INSERT INTO orders VALUES (1000, 1000)`,
    )
    expect(await m.sql(`SELECT called, name_of(email) FROM names WHERE email = 'new@x'`)).toEqual([
      { called: 'Newcomer', name_of: 'Newcomer' },
    ])
    await m.sql(`INSERT INTO inbox VALUES ('new@x', 'Renamed')`)
    expect(await m.value(`SELECT name FROM users WHERE id = 1000`)).toBe('Renamed')
    expect(
      await m.sql(
        `SELECT ev_enabled, obj_description(oid, 'pg_rewrite') FROM pg_rewrite WHERE rulename = 'fill'`,
      ),
    ).toEqual([{ ev_enabled: 'A', obj_description: 'renames' }])
    await m.sql('DELETE FROM users WHERE id = 1000')
    expect(await m.value('SELECT count(*)::int FROM orders WHERE user_id = 1000')).toBe(0)
    await expect(m.sql('INSERT INTO orders VALUES (1001, 1001)')).rejects.toMatchObject({ code: '23503' })

    await swap(m, 'to-old')
    expect(await meansNew(m)).toEqual(all(false))
    expect(await proveKeys(m.place, watch)).toEqual([])
    expect(await inventory(m)).toEqual(before)
    await m.sql('DROP PUBLICATION p')
  })

  test('a swap that is interrupted has taken nothing along', async (t) => {
    const m = await prepare(t, version, followers)
    const before = await inventory(m)
    await expect(
      m.database.transaction(
        async (tx) => {
          await swapNames(m.place, tx, m.migration, 'to-new')
          throw new RangeError('killed')
        },
        { lockTimeoutMs: 1000, applying: 'm' },
      ),
    ).rejects.toThrow('killed')
    expect(await inventory(m)).toEqual(before)
    expect(await meansNew(m)).toEqual(all(false))
    await m.sql('DROP PUBLICATION p')
  })

  test('what came after the swap and only fits the new table keeps nobody from going back', async (t) => {
    const m = await prepare(
      t,
      version,
      'CREATE VIEW names AS SELECT name FROM users; CREATE VIEW kept AS SELECT email FROM users',
    )
    await swap(m, 'to-new')
    await m.sql(
      'CREATE OR REPLACE VIEW names AS SELECT name, seen FROM users; CREATE VIEW later AS SELECT seen FROM users',
    )
    await swap(m, 'to-old')
    expect(
      await m.sql(
        `SELECT viewname, definition LIKE '%people%' AS new FROM pg_views WHERE schemaname = 'public' ORDER BY 1`,
      ),
    ).toEqual([
      { viewname: 'kept', new: false },
      { viewname: 'later', new: true },
      { viewname: 'names', new: true },
    ])
  })

  test('what cannot follow is refused by the plan with the mend, and by the gate', async (t) => {
    const m = await prepare(
      t,
      version,
      `CREATE MATERIALIZED VIEW kept AS SELECT count(*) FROM users; CREATE VIEW ids AS SELECT id FROM users;
       CREATE TABLE audit (at timestamptz); CREATE RULE log AS ON DELETE TO users DO ALSO INSERT INTO audit VALUES (now());
       CREATE FUNCTION shown(u users) RETURNS text LANGUAGE sql AS 'SELECT u.name';
       CREATE TABLE parent (email text NOT NULL); ALTER TABLE users INHERIT parent;
       CREATE UNIQUE INDEX users_name ON users (name); CREATE TABLE tags (name varchar(80) CONSTRAINT tags_user REFERENCES users (name));
       CREATE TABLE parts (id int, user_id int CONSTRAINT parts_user REFERENCES users) PARTITION BY LIST (id)`,
      definition({
        expand: {
          tables: [
            {
              ...definition().expand!.tables![0]!,
              foreignKeys: [
                { name: 'people_boss', columns: ['boss'], references: { table: 'users', columns: ['id'] } },
              ],
            },
          ],
        },
      }),
    )
    const refused = (await findings(m)).filter(({ rule }) => rule === 'swap-dependents')
    const still = (what: string): string =>
      `After the exchange of names this would still mean the old public.users: ${what}.`
    expect(refused.map(({ message }) => message)).toEqual([
      ...(version === '15' ? [still('foreign key parts_user of public.parts')] : []),
      still('materialized view public.kept'),
      still('rule log of public.users'),
      still('function shown(users)'),
      still('table parent, from which it inherits'),
      still('foreign key tags_user of public.tags: public.people has no unique index over (name)'),
      still('view public.ids: its column id is integer and would become bigint'),
      'The foreign key people_boss of public.people references public.users, which is the old table after the exchange of names.',
    ])
    for (const { severity, mend } of refused)
      expect({ severity, mend }).toEqual({
        severity: 'refusal',
        mend: expect.stringMatching(/flags|public\.people/) as string,
      })
    await expect(
      m.database.transaction((tx) => assertCarried(m.place, tx, m.migration)),
    ).rejects.toMatchObject({
      code: 'CUTOVER.NOT_CARRIED',
      message: expect.stringContaining('materialized view public.kept') as string,
    })
    await expect(swap(m, 'to-new')).rejects.toMatchObject({ code: 'CUTOVER.NOT_CARRIED' })
  })

  test('what is taken away and brought back as the mend says is what it was', async (t) => {
    const m = await prepare(
      t,
      version,
      `CREATE MATERIALIZED VIEW kept WITH (fillfactor = 70) AS SELECT name, count(*) AS "how many" FROM users GROUP BY name; CREATE UNIQUE INDEX kept_name ON kept (name);
       GRANT SELECT ON kept TO PUBLIC; COMMENT ON MATERIALIZED VIEW kept IS 'it''s kept'; COMMENT ON COLUMN kept."how many" IS 'n';
       CREATE MATERIALIZED VIEW later AS SELECT email FROM users WITH NO DATA;
       CREATE VIEW ids WITH (security_barrier = true) AS SELECT id, name FROM users; GRANT SELECT (id), UPDATE (name) ON ids TO PUBLIC; ALTER VIEW ids ALTER name SET DEFAULT 'none';
       CREATE TABLE audit (at timestamptz); CREATE RULE log AS ON DELETE TO users DO ALSO INSERT INTO audit VALUES (now())`,
    )
    const state = async (): Promise<unknown[]> => [
      ...(await inventory(m))
        .filter((line) => /kept|later|ids|audit/.test(line) && !/_crossfade/.test(line))
        .map((line) => line.replace('bigint', 'integer')),
      ...(await m.sql(`SELECT tablename, rulename, definition FROM pg_rules WHERE rulename = 'log'`)),
      ...(await m.sql('SELECT matviewname, ispopulated FROM pg_matviews ORDER BY 1')),
      ...(await m.sql('SELECT sum("how many")::int AS rows FROM kept')),
    ]
    const before = await state()
    const refused = async (): Promise<string[]> =>
      (await findings(m)).filter(({ rule }) => rule === 'swap-dependents').map(({ mend }) => mend)
    const mends = (await refused()).map((mend) =>
      / before the swap: (.*) After it, bring it back: (.*)$/s.exec(mend),
    )
    expect(mends).toHaveLength(4)
    for (const mend of mends) await m.sql(mend?.[1] ?? '')
    expect(await refused()).toEqual([])
    await swap(m, 'to-new')
    for (const mend of mends) await m.sql(mend?.[2] ?? '')
    expect(await state()).toEqual(before)
  })

  test('the plan says the same before the new table stands', async (t) => {
    const m = await withBothSides(
      t,
      version,
      `${users}; CREATE VIEW ids AS SELECT id FROM users; CREATE VIEW names AS SELECT name FROM users`,
      definition(),
    )
    await m.sql('DROP TABLE people')
    expect(
      (await findings(m)).filter(({ rule }) => rule === 'swap-dependents').map(({ message }) => message),
    ).toEqual([
      'After the exchange of names this would still mean the old public.users: view public.ids: its column id is integer and would become bigint.',
    ])
  })

  test('what stays with the old table is said', async (t) => {
    const m = await prepare(
      t,
      version,
      `ALTER TABLE users ADD CONSTRAINT users_boss FOREIGN KEY (boss) REFERENCES users, SET (fillfactor = 80); COMMENT ON TABLE users IS 'people'; CREATE STATISTICS both_of ON email, name FROM users;
       CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$; CREATE TRIGGER loud BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION shout();
       CREATE PUBLICATION everything FOR ALL TABLES; CREATE PUBLICATION chosen FOR TABLE users`,
    )
    const said = Object.fromEntries(
      (await findings(m)).map(({ rule, severity, message }) => [rule, `${severity}: ${message}`]),
    )
    expect(said).toMatchObject({
      'swap-published':
        'warning: Subscribers get the rows of the new table under the name public.users from the swap on: publication chosen, publication everything, which covers both tables.',
      'swap-trigger-undeclared':
        'refusal: Nothing says what becomes of the trigger loud of public.users when the names are exchanged.',
      'swap-left':
        'warning: These stay with the old public.users: foreign key users_boss, its comment, storage parameter fillfactor=80.',
    })
    const flags = { ...m.migration, cutover: { ...m.migration.cutover, mode: 'flags' as const } }
    expect(
      (await makePlan(m.place, flags)).findings.find(({ rule }) => rule === 'source-dependents')?.message,
    ).toContain('publication chosen')
    await m.sql('DROP PUBLICATION everything; DROP PUBLICATION chosen')
  })

  test('a trigger goes along where the definition says so, and fires once for each statement of the application', async (t) => {
    const m = await prepare(
      t,
      version,
      `CREATE TABLE seen (what text, id int, by text);
       CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen VALUES (TG_OP || ' ' || TG_NAME, NEW.id, TG_RELID::regclass::text); RETURN NEW; END $$;
       CREATE TRIGGER "au'dit" AFTER INSERT OR UPDATE OF name ON users FOR EACH ROW WHEN (NEW.name <> '') EXECUTE FUNCTION see(); COMMENT ON TRIGGER "au'dit" ON users IS 'who';
       ALTER TABLE users ENABLE ALWAYS TRIGGER "au'dit";
       CREATE TRIGGER off BEFORE DELETE ON users FOR EACH ROW EXECUTE FUNCTION see(); ALTER TABLE users DISABLE TRIGGER off;
       CREATE CONSTRAINT TRIGGER late AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION see();
       CREATE TRIGGER stays AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION see()`,
      definition({
        cutover: {
          mode: 'swap',
          triggers: { "au'dit": 'carry', off: 'carry', late: 'carry', stays: 'leave' },
        },
      }),
    )
    expect((await findings(m)).filter(({ severity }) => severity === 'refusal')).toEqual([])
    const before = await inventory(m)
    const mine = (lines: readonly string[]): string[] =>
      lines.filter((line) => /^trigger .*see\(\)/.test(line) && !line.includes('stays'))
    const write = async (id: number): Promise<unknown[]> => {
      await m.sql(`TRUNCATE seen; INSERT INTO users (id, email, name) VALUES (${id}, ${id} || '@t', 'new')`)
      await m.sql(`UPDATE users SET name = name || '!' WHERE id = ${id}`)
      await m.drain()
      await m.drain(m.reverse)
      return m.sql(`SELECT what FROM seen WHERE id = ${id} ORDER BY 1`)
    }
    const once = ["INSERT au'dit", 'INSERT late', "UPDATE au'dit"].map((what) => ({ what }))
    await swap(m, 'to-new')
    expect(mine(await inventory(m))).toEqual(mine(before))
    // The one that was left fires where the row is copied back.
    expect(await write(5001)).toEqual([...once.slice(0, 2), { what: 'INSERT stays' }, ...once.slice(2)])
    await swap(m, 'to-old')
    expect(await inventory(m)).toEqual(before)
    expect(await write(5002)).toEqual([...once.slice(0, 2), { what: 'INSERT stays' }, ...once.slice(2)])
  })

  test('writers of the table and of one that points at it go on through swaps there and back, and no row is an orphan', async (t) => {
    const m = await prepare(
      t,
      version,
      `CREATE TABLE orders (id bigserial PRIMARY KEY, user_id int NOT NULL CONSTRAINT orders_user REFERENCES users ON DELETE CASCADE);
       CREATE VIEW names AS SELECT name, email FROM users`,
    )
    const written = new Map<number, number>()
    const failures: string[] = []
    let isOver = false
    const loop = async (
      name: string,
      work: (session: Session, n: number) => Promise<void>,
    ): Promise<void> => {
      const session = await m.session(name)
      for (let n = 0; !isOver; n++)
        try {
          await work(session, n)
        } catch (error) {
          failures.push(`${name}: ${String(error)}`)
          isOver = true
        }
    }
    // Each has users of its own, and locks the two tables in an order of its own.
    const child = (session: Session, n: number): Promise<void> =>
      session
        .query('INSERT INTO orders (user_id) VALUES ($1) RETURNING id', [1 + (n % 100)])
        .then(({ rows }) => void written.set(Number(rows[0]?.['id']), 1 + (n % 100)))
    const parentFirst = async (session: Session, n: number): Promise<void> => {
      const id = 101 + (n % 100)
      await session.query('BEGIN')
      await session.query(`UPDATE users SET name = $2 WHERE id = $1`, [id, `n${n}`])
      await session.query('INSERT INTO orders (user_id) VALUES ($1)', [id])
      await session.query('COMMIT')
    }
    const cascade = async (session: Session, n: number): Promise<void> => {
      const id = 201 + (n % 100)
      await session.query('DELETE FROM users WHERE id = $1', [id])
      await session.query(`INSERT INTO users (id, email, name) VALUES ($1::int, $1::int || '@y', 'again')`, [
        id,
      ])
      await session.query('INSERT INTO orders (user_id) VALUES ($1)', [id])
    }
    const reader = (session: Session): Promise<void> =>
      session.query('SELECT count(*) FROM names').then(() => undefined)
    const writers = [
      loop('child', child),
      loop('parent first', parentFirst),
      loop('cascade', cascade),
      loop('reader', reader),
    ]
    const deadlocks = (): Promise<unknown> =>
      m.value(`SELECT deadlocks::int FROM pg_stat_database WHERE datname = current_database()`)
    const patience = { lockTimeoutMs: 200, pauseMs: 30, attempts: 100 }
    for (const direction of ['to-new', 'to-old', 'to-new', 'to-old'] as const) {
      const size = written.size
      await eventually(() => isOver || written.size > size + 50, { what: 'the writers to go on' })
      await eventually(
        async () => {
          const now = await m.database.transaction((tx) =>
            resolveGroups(tx, m.database.dialect, m.place.scope, m.migration),
          )
          for (const group of [...now.forward, ...now.reverse]) await applyRound(m.place, group)
          return attempt(m.place, 'swap', [], { ...watch, patience }, ({ lockTimeoutMs }) =>
            m.database.transaction((tx) => swapNames(m.place, tx, m.migration, direction), {
              lockTimeoutMs,
              applying: 'm',
            }),
          )
        },
        { what: `the swap ${direction}`, timeoutMs: 30_000 },
      )
      expect(await proveKeys(m.place, watch)).toEqual([])
    }
    isOver = true
    await Promise.all(writers)
    expect(failures).toEqual([])
    expect(await deadlocks()).toBe(0)
    const kept = await m.sql('SELECT id::int, user_id FROM orders WHERE id = ANY ($1::bigint[])', [
      [...written.keys()],
    ])
    expect(new Map(kept.map((row) => [row['id'], row['user_id']]))).toEqual(written)
    expect(
      await m.value(
        'SELECT count(*)::int FROM orders o WHERE NOT EXISTS (SELECT FROM users WHERE id = o.user_id)',
      ),
    ).toBe(0)
    expect(await m.value(`SELECT convalidated FROM pg_constraint WHERE conname = 'orders_user'`)).toBe(true)
    await m.drain()
    const columns = 'id, email, name, boss'
    expect(await m.differences(`SELECT ${columns} FROM users`, `SELECT ${columns} FROM people`)).toEqual([])
  })

  test('hundreds of followers are read again and taken along under one lock', async (t) => {
    const many = 200
    const m = await prepare(
      t,
      version,
      Array.from(
        { length: many },
        (_, i) =>
          `CREATE VIEW view_${i} AS SELECT name, email FROM users WHERE boss IS DISTINCT FROM ${i}; CREATE TABLE child_${i} (user_id int CONSTRAINT child_user_${i} REFERENCES users)`,
      ).join(';'),
    )
    const moves = [
      {
        table: { schema: 'public', name: 'users' },
        leftAs: { schema: 'public', name: '_crossfade_retired_users' },
        successor: { schema: 'public', name: 'people' },
      },
    ]
    const { database } = m.place
    let found = 0
    const readMs = await timed(() =>
      database.transaction(async (tx) => {
        const all = await readDependents(tx, database.dialect, moves, m.migration.cutover)
        found = all.flat().filter(({ fate }) => fate === 'follows').length
      }),
    )
    expect(found).toBe(2 * many)
    const swapMs = await timed(() => swap(m, 'to-new'))
    process.stderr.write(
      `PostgreSQL ${version}: ${found} followers are read in ${Math.round(readMs)} ms; a swap, which reads them twice, takes ${Math.round(swapMs)} ms\n`,
    )
    expect(
      await m.value(
        `SELECT count(*)::int FROM pg_constraint WHERE conname LIKE 'child_user_%' AND confrelid = 'users'::regclass`,
      ),
    ).toBe(many)
    expect(
      await m.value(
        `SELECT count(*)::int FROM pg_views WHERE viewname LIKE 'view_%' AND definition LIKE '%retired%'`,
      ),
    ).toBe(0)
  })
})
