import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test, type TestContext } from 'vitest'
import { createServiceCli, startCliWorker, uniqueName, type Cli } from '../support/cli.ts'
import { withDatabase, type TestDatabase } from '../support/postgres.ts'
import { eventually } from '../support/wait.ts'

const rows = 3000

/** The template's table and definition, with holds that a test can wait for. */
async function prepare(
  t: TestContext,
  name: string,
  change: Record<string, unknown> = {},
  template = 'reshape',
): Promise<{ cli: Cli; database: TestDatabase }> {
  const database = await withDatabase(t)
  await database.pool.query(
    `CREATE TABLE users (id bigint PRIMARY KEY, name text NOT NULL, email text NOT NULL, phone text, created_at timestamptz NOT NULL DEFAULT now())`,
  )
  await database.pool.query(
    `INSERT INTO users SELECT i, 'Name ' || i, 'U' || i || '@x.y', CASE WHEN i % 3 > 0 THEN i::text END FROM generate_series(1, ${rows}) i`,
  )
  await database.pool.query('ANALYZE users')
  const cli = createServiceCli(t, database)
  expect(
    (await cli.run('init-migration', name, '--config', 'template.json', '--template', template)).exitCode,
  ).toBe(0)
  const definition = (await import(join(cli.cwd, 'template.json'), { with: { type: 'json' } })) as {
    default: object
  }
  const short = {
    cutover: {
      ramp: [
        { percent: 50, hold: '100ms' },
        { percent: 100, hold: '100ms' },
      ],
    },
    retire: { soak: '100ms' },
    // Shorter than the second after which the server counts a scan, the observation would see our own last ones.
    contract: { observe: '2s', soak: '100ms' },
    ...change,
  }
  writeFileSync(join(cli.cwd, 'migration.config.json'), JSON.stringify({ ...definition.default, ...short }))
  return { cli, database }
}

describe('plan', () => {
  test('shows a real table, its steps with locks and SQL, and changes nothing', async (t) => {
    const name = uniqueName('plan')
    const { cli, database } = await prepare(t, name)
    const { stdout, stderr, exitCode } = await cli.run('plan', name, '--sql')
    expect(exitCode).toBe(0)
    expect(stdout).toContain(`${name} · plan · nothing was changed`)
    expect(stdout).toMatch(/Size {6}about 3,000 rows, \d/)
    expect(stdout).toMatch(/Token {5}[0-9a-f]{8} /)
    expect(stdout).toMatch(/CREATE TABLE "public"\."people"/)
    expect(stdout).toContain('lock: SHARE ROW EXCLUSIVE on public.users')
    expect(stderr).toBe(`→ Start it: crossfade run ${name} --wait\n`)
    const { rows: tables } = await database.pool.query("SELECT 1 FROM pg_class WHERE relname = 'people'")
    expect(tables).toEqual([])

    const dry = await cli.run('run', '--dry-run')
    expect(dry).toMatchObject({ exitCode: 0, stdout })
    const expand = await cli.run('run', name, '--phase', 'expand', '--dry-run')
    expect(expand.stdout).toContain(`${name} · plan of expand · nothing was changed`)
    expect(expand.stdout).not.toContain('Ramp reads')
    expect(expand.stderr).toContain(`crossfade run ${name} --phase expand --execute`)
  })

  test('refuses with 1 what cannot work, with one JSON object', async (t) => {
    const { cli, database } = await prepare(t, 'refused')
    await database.pool.query('ALTER TABLE users DROP CONSTRAINT users_pkey')
    const { exitCode, answer } = await cli.json('plan')
    expect(exitCode).toBe(1)
    expect(answer).toMatchObject({ ok: false, error: { code: 'PLAN.REFUSED' }, name: 'refused' })
    expect(JSON.stringify(answer['findings'])).toContain('key-not-unique')
    expect((await cli.run('plan')).stdout).toContain('✖ key-not-unique: ')
  })

  test('says 5 on warnings where it is asked to', async (t) => {
    const { cli } = await prepare(t, 'warned', { safety: { requireApproval: false } })
    expect((await cli.run('plan')).exitCode).toBe(0)
    expect((await cli.run('plan', '--exit-code')).exitCode).toBe(5)
  })
})

test('a migration from run to done, approved step by step, with the exact commands that it asks for', async (t) => {
  const name = uniqueName('people')
  const { cli, database } = await prepare(t, name)
  await startCliWorker(t, cli)

  const started = await cli.run('run', name, '--wait', '--timeout', '1m')
  expect(started.exitCode).toBe(3)
  expect(started.stderr).toContain(`Started ${name} (workflow crossfade/${name}).`)
  const { answer: planned } = await cli.json('plan')
  const token = String(planned['token'])
  expect(planned['running']).toEqual({ phase: 'expand' })
  expect(started.stdout).toContain(`→ crossfade approve ${name} --gate expand --token ${token}`)

  const nothing = await cli.run('verify', name)
  expect(nothing).toMatchObject({ exitCode: 1, stdout: '' })
  expect(nothing.stderr).toContain('VERIFY.NOTHING_COMPARED')

  const status = await cli.json('status', name)
  expect(status.answer).toMatchObject({
    ok: true,
    execution: 'RUNNING',
    workerAnswered: true,
    waiting: {
      on: 'approval of expand',
      command: `crossfade approve ${name} --gate expand --token ${token}`,
    },
  })
  expect((await cli.run('status', name, '--exit-code')).exitCode).toBe(3)

  const wrong = await cli.run('approve', name, '--gate', 'expand', '--token', 'ffffffff')
  expect(wrong).toMatchObject({ exitCode: 3, stdout: '' })
  expect(wrong.stderr).toMatch(
    new RegExp(`^✖ ${name} refused approve: the token does not fit.*${token}\\.\n→ `),
  )
  const early = await cli.run('approve', name, '--gate', 'cutover')
  expect(early.stderr).toContain('the open gate is expand, not cutover')

  const watch = cli.start('status', name, '--watch', '--json')
  const wait = ['--wait', '--timeout', '1m', '--note', 'by a test'] as const
  const expand = await cli.run('approve', name, '--gate', 'expand', '--token', token, ...wait)
  expect(expand.stderr).toContain(`${name}: expand is approved.`)
  expect(expand).toMatchObject({ exitCode: 3 })
  expect(expand.stdout).toContain(`→ crossfade approve ${name} --gate cutover`)

  const verified = await cli.json('verify', name)
  expect(verified).toMatchObject({
    exitCode: 0,
    answer: { ok: true, mismatched: 0, parity: { parity: 1, proven: true } },
  })

  const cutover = await cli.run('approve', name, '--gate', 'cutover', ...wait)
  expect(cutover.stdout).toContain(`→ crossfade approve ${name} --gate retire\n`)
  const retire = await cli.run('approve', name, '--gate', 'retire', ...wait)
  expect(retire.stdout).toContain(
    `→ crossfade approve ${name} --gate contract --token ${token} --confirm ${name}\n`,
  )
  expect([cutover.exitCode, retire.exitCode]).toEqual([3, 3])

  const unconfirmed = await cli.run('approve', name, '--gate', 'contract', '--token', token)
  expect(unconfirmed).toMatchObject({ exitCode: 3, stdout: '' })
  expect(unconfirmed.stderr).toContain(`→ Add --confirm ${name}.`)
  const last = await cli.run(
    'approve',
    name,
    '--gate',
    'contract',
    '--token',
    token,
    '--confirm',
    name,
    ...wait,
  )
  expect(last).toMatchObject({ exitCode: 0 })
  expect(last.stdout).toContain(`${name} · done`)
  expect((await database.pool.query('SELECT count(*)::int AS n FROM people')).rows).toEqual([{ n: rows }])
  expect((await database.pool.query("SELECT to_regclass('users') AS old")).rows).toEqual([{ old: null }])

  const watched = await watch.ended
  expect(watched).toMatchObject({ exitCode: 0, stderr: '' })
  const lines = watched.stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>)
  expect(lines.length).toBeGreaterThan(2)
  expect(lines.at(-1)).toMatchObject({ ok: true, execution: 'COMPLETED', detail: { outcome: 'done' } })
})

test('the forms of runbooks: expand with the plan’s token, then the backfill', async (t) => {
  const name = uniqueName('runbook')
  const { cli } = await prepare(t, name, {}, 'split')
  await startCliWorker(t, cli)

  const wrong = await cli.run('run', name, '--phase', 'expand', '--execute', '--token', 'ffffffff')
  expect(wrong.exitCode).toBe(3)
  expect(wrong.stderr).toContain('not ffffffff: it was not approved')
  const expand = await cli.run('run', name, '--phase', 'expand', '--execute')
  expect(expand).toMatchObject({ exitCode: 0 })
  expect(expand.stderr).toContain(`${name} runs already; joining it.`)
  expect(expand.stderr).toContain(`${name}: expand is approved.`)
  const backfill = await cli.run('run', name, '--phase', 'backfill', '--start', '--wait')
  expect([0, 3]).toContain(backfill.exitCode) // a small backfill may be over, and the next gate wait
  const again = await cli.run('run', name, '--phase', 'expand', '--execute', '--wait')
  expect(again.stderr).not.toContain('is approved')
  expect((await cli.run('abort', name, '--wait', '--timeout', '1m')).exitCode).toBe(0)
})

test('pause, resume, configure, list, abort', async (t) => {
  const name = uniqueName('control')
  const { cli, database } = await prepare(t, name)
  await startCliWorker(t, cli)
  const { answer } = await cli.json('run', name, '--wait')
  const { command } = answer['waiting'] as { command: string }

  const paused = await cli.run('pause', name, '--reason', 'a sale')
  expect(paused).toMatchObject({
    exitCode: 0,
    stdout: `${name}: paused; both sides stay in step meanwhile.\n`,
    stderr: `→ Go on: crossfade resume ${name}\n`,
  })
  const twice = await cli.run('pause', name)
  expect(twice.exitCode).toBe(3)
  expect(twice.stderr).toContain('tester paused it already')
  const status = await cli.run('status', name)
  expect(status.stdout).toContain(`Paused by tester: a sale.\n  → crossfade resume ${name}\n`)
  expect(await cli.run('resume', name)).toMatchObject({ exitCode: 0, stdout: `${name}: it goes on.\n` })

  expect(await cli.run('configure', name, '--max-replication-lag', '20', '--profile', 'fast')).toMatchObject({
    exitCode: 0,
  })
  expect((await cli.json('status', name)).answer).toMatchObject({
    detail: { settings: { maxReplicationLagSec: 20, profile: 'fast' } },
  })

  await eventually(
    async () => {
      const { stdout } = await cli.run('list')
      return new RegExp(`^${name} +running +expand +approval of expand +default `, 'm').test(stdout)
    },
    { what: 'the list to show it', timeoutMs: 30_000, intervalMs: 500 },
  )

  await cli.run(...command.split(' ').slice(1), '--wait')
  const aborted = await cli.run('abort', name, '--reason', 'enough', '--wait')
  expect(aborted.exitCode).toBe(0)
  expect(aborted.stdout).toContain(`${name} · aborted, the old side serves`)
  expect(
    (await database.pool.query("SELECT to_regclass('people') AS new, to_regclass('users')::text AS old"))
      .rows,
  ).toEqual([{ new: null, old: 'users' }])
  expect((await cli.run('status', name, '--exit-code')).exitCode).toBe(4)
  expect((await cli.run('run', name, '--wait', '--dry-run')).exitCode).toBe(0)
  const late = await cli.run('pause', name)
  expect(late.exitCode).toBe(2)
  expect(late.stderr).toContain(`The migration ${name} has ended.`)
})

test('Ctrl-C detaches, and says that the migration goes on and how to stop it', async (t) => {
  const name = uniqueName('detach')
  const { cli } = await prepare(t, name)
  await cli.run('run', name)
  const watch = cli.start('status', name, '--watch')
  await eventually(() => watch.output.stdout !== '', { what: 'the first line', timeoutMs: 30_000 })
  watch.child.kill('SIGINT')
  const { exitCode, stdout, stderr } = await watch.ended
  expect(exitCode).toBe(130)
  expect(stdout).toContain('no worker answered')
  expect(stderr).toContain(`The migration ${name} goes on: crossfade status ${name} --watch`)
  expect(stderr).toContain(`crossfade pause ${name}`)
  expect((await cli.json('status', name)).answer).toMatchObject({
    execution: 'RUNNING',
    workerAnswered: false,
  })
  // Nobody can act without a worker: one has to come before the test's database goes.
  await startCliWorker(t, cli)
  expect((await cli.run('abort', name, '--wait')).exitCode).toBe(0)
})

test('a run without a worker says so; one without a server starts nothing', async (t) => {
  const name = uniqueName('alone')
  const { cli } = await prepare(t, name)
  const alone = await cli.run('run', name, '--address', '127.0.0.1:1')
  expect(alone).toMatchObject({ exitCode: 1, stdout: '' })
  expect(alone.stderr).toContain('TEMPORAL.UNREACHABLE')
  const run = await cli.run('run', name)
  expect(run.exitCode).toBe(0)
  expect(run.stderr).toMatch(/^! No worker asks the task queue "cli-.*" for work: .* crossfade worker\n/)
  const late = await cli.run('verify', name)
  expect(late).toMatchObject({ exitCode: 1, stdout: '' })
  expect(late.stderr).toContain('TEMPORAL.NO_WORKER')
  await startCliWorker(t, cli)
  expect((await cli.run('abort', name, '--wait')).exitCode).toBe(0)
})
