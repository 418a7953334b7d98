import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test, type TestContext } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))

interface Ended {
  readonly stdout: string
  readonly stderr: string
  readonly exitCode: number | null
}

async function demo(t: TestContext, ...args: string[]): Promise<Ended> {
  const child = spawn('npm', ['run', 'demo', '--', ...args], { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] })
  t.onTestFinished(() => void child.kill('SIGTERM'))
  const output = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr'] as const)
    child[name].setEncoding('utf8').on('data', (text: string) => (output[name] += text))
  const exitCode = await new Promise<number | null>((resolve) => child.once('close', resolve))
  return { ...output, exitCode }
}

type Outcome = Readonly<Record<string, unknown>>

async function outcomeOf(t: TestContext, rows: number, ...args: string[]): Promise<Outcome> {
  const { stdout, stderr, exitCode } = await demo(t, '--rows', String(rows), ...args, '--json')
  const [last = ''] = stdout.trimEnd().split('\n').slice(-1)
  expect(exitCode, stderr).toBe(0)
  const outcome = JSON.parse(last) as Outcome
  expect(outcome, stderr).toMatchObject({
    ok: true,
    rows,
    lost: 0,
    mismatched: 0,
    applicationErrors: 0,
    parity: 1,
    ramp: [1, 10, 50, 100],
  })
  expect(Object.keys(outcome).slice(0, 11)).toEqual([
    'ok',
    'rows',
    'writesDuring',
    'lost',
    'mismatched',
    'crashes',
    'resumedInMs',
    'phases',
    'parity',
    'ramp',
    'eventsInHistory',
  ])
  expect((outcome['phases'] as { name: string }[]).map(({ name }) => name)).toEqual([
    'expand',
    'dual-write',
    'backfill',
    'verify',
    'cutover',
    'retire',
    'contract',
  ])
  expect(outcome['resumedInMs']).toBeGreaterThan(0)
  expect(outcome['writesDuring']).toBeGreaterThan(1_000)
  expect(outcome['eventsInHistory']).toBeGreaterThan(50)
  return outcome
}

test('the demo moves a table under load while workers are killed, and loses nothing', async (t) => {
  const outcome = await outcomeOf(t, 20_000)
  expect(outcome['crashes']).toBeGreaterThanOrEqual(1)
})

test('the demo moves the table of a service that captures its own writes, while its instances are killed, and no request fails', async (t) => {
  const outcome = await outcomeOf(t, 4_000, '--sync', 'application')
  expect(outcome).toMatchObject({ failedRequests: 0 })
  expect(outcome['instancesKilled']).toBeGreaterThanOrEqual(2)
  expect(outcome['crashes']).toBeGreaterThanOrEqual(3)
  expect(outcome['requests']).toBeGreaterThan(1_000)
})
