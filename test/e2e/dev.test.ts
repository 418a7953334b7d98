import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { expect, inject, test } from 'vitest'
import { freePort, isPortFree } from '../../src/dev/free-port.ts'
import { createCli, type Running } from '../support/cli.ts'
import { required } from '../support/migration.ts'
import { eventually } from '../support/wait.ts'

async function announced(dev: Running): Promise<Record<string, unknown>> {
  await eventually(() => dev.output.stdout.includes('\n}'), {
    what: `dev to be ready:\n${dev.output.stderr}`,
    timeoutMs: 60_000,
  })
  return JSON.parse(dev.output.stdout) as Record<string, unknown>
}

test('dev starts a Temporal that is kept in a file, and Ctrl-C stops all it has started', async (t) => {
  const port = await freePort()
  const cli = createCli(t, {
    TEMPORAL_ADDRESS: `127.0.0.1:${port}`,
    CROSSFADE_TEMPORAL_CLI: required(inject('temporalCli'), 'temporal'),
  })
  const dev = cli.start('dev', '--json', '--no-worker')
  expect(await announced(dev)).toMatchObject({
    ok: true,
    started: true,
    worker: false,
    address: `127.0.0.1:${port}`,
  })
  expect(existsSync(join(cli.cwd, '.crossfade', 'temporal.db'))).toBe(true)
  expect((await cli.json('list')).answer).toMatchObject({ ok: true, migrations: [] })
  const { checks } = (await cli.json('doctor')).answer as { checks: { name: string; state: string }[] }
  expect(checks).toContainEqual({ name: 'Search attributes', state: 'passed', found: 'registered' })
  dev.child.kill('SIGINT')
  expect(await dev.ended).toMatchObject({ exitCode: 0 })
  await eventually(() => isPortFree(port), { what: 'the server to be gone' })
})

test('dev uses the server that answers already, with a worker, and leaves it running', async (t) => {
  const address = required(inject('temporalAddress'), 'the Temporal server')
  const cli = createCli(t, {
    TEMPORAL_ADDRESS: address,
    CROSSFADE_TASK_QUEUE: `dev-${process.pid}`,
    CROSSFADE_WORKFLOW_BUNDLE: required(inject('workflowBundlePath'), 'the workflow bundle'),
  })
  const dev = cli.start('dev', '--json')
  expect(await announced(dev)).toMatchObject({ ok: true, started: false, worker: true, address })
  expect((await cli.run('doctor')).stdout).toMatch(/PASSED {3}Workers /)
  dev.child.kill('SIGTERM')
  expect(await dev.ended).toMatchObject({ exitCode: 0 })
  expect((await cli.run('list')).exitCode).toBe(0)
})
