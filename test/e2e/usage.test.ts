import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, test } from 'vitest'
import { createCli } from '../support/cli.ts'

/** Nothing listens there: a command that contacts anything would fail with another code. */
const nowhere = { TEMPORAL_ADDRESS: '127.0.0.1:1' }

describe('help', () => {
  test('goes to stdout with 0, and names every command', async (t) => {
    const { stdout, stderr, exitCode } = await createCli(t).run('--help')
    expect({ stderr, exitCode }).toEqual({ stderr: '', exitCode: 0 })
    expect(stdout).toMatch(/^Usage: crossfade <command> \[options\]\n/)
    for (const word of [
      'init',
      'doctor',
      'plan',
      'run',
      'status',
      'list',
      'approve',
      'abort',
      'pause',
      'resume',
    ])
      expect(stdout).toMatch(new RegExp(`^  ${word} `, 'm'))
    for (const word of [
      'configure',
      'verify',
      'worker',
      'dev',
      'demo',
      'completion',
      'schema',
      'init-migration',
    ])
      expect(stdout).toMatch(new RegExp(`^  ${word} `, 'm'))
  })

  test('without a command is the same', async (t) => {
    const cli = createCli(t)
    expect(await cli.run()).toEqual(await cli.run('--help'))
  })

  test('loads neither Temporal nor a driver', async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'crossfade-hook-'))
    t.onTestFinished(() => rmSync(folder, { recursive: true }))
    const hook = pathToFileURL(join(folder, 'hook.mjs')).href
    writeFileSync(
      join(folder, 'hook.mjs'),
      "export async function resolve(specifier, context, next) { const found = await next(specifier, context); process._rawDebug('loaded ' + found.url); return found }",
    )
    writeFileSync(join(folder, 'register.mjs'), `import { register } from 'node:module'; register('${hook}')`)
    const cli = createCli(t, { NODE_OPTIONS: `--import ${pathToFileURL(join(folder, 'register.mjs')).href}` })
    const { stderr, exitCode } = await cli.run('--help')
    expect(exitCode).toBe(0)
    expect(stderr).toContain('loaded ') // the hook works
    expect(stderr).toContain('/commander/')
    expect(stderr).not.toMatch(/node_modules\/(@temporalio|pg|mysql2|zod|jiti|pino)\//)
  })

  test('the version is that of the package', async (t) => {
    expect((await createCli(t).run('--version')).stdout).toMatch(/^\d+\.\d+\.\d+\n$/)
  })
})

describe('a mistake', () => {
  test('an unknown command is refused with a guess, on stderr, with 2', async (t) => {
    expect(await createCli(t, nowhere).run('statsu')).toEqual({
      stdout: '',
      stderr:
        "✖ Unknown command 'statsu'.\n→ Did you mean status? `crossfade --help` shows what there is.\n" +
        'CLI.UNKNOWN_COMMAND · docs/errors.md#cli-unknown-command\n',
      exitCode: 2,
      signal: null,
    })
  })

  test('an unknown option is refused before anything is contacted', async (t) => {
    const { stdout, stderr, exitCode } = await createCli(t, nowhere).run('abort', 'people', '--kep')
    expect({ stdout, exitCode }).toEqual({ stdout: '', exitCode: 2 })
    expect(stderr).toMatch(/^✖ Unknown option '--kep'\.\n→ Did you mean --keep\?/)
  })

  test('with --json it is the envelope on stdout, and stderr is silent', async (t) => {
    const { stdout, stderr, exitCode } = await createCli(t, nowhere).run('abort', 'people', '--kep', '--json')
    expect({ stderr, exitCode }).toEqual({ stderr: '', exitCode: 2 })
    expect(JSON.parse(stdout)).toMatchObject({
      ok: false,
      error: { kind: 'input', code: 'CLI.UNKNOWN_OPTION' },
    })
  })

  test('colours are for terminals, and FORCE_COLOR', async (t) => {
    expect((await createCli(t).run('nope')).stderr).not.toContain('\u001b')
    expect((await createCli(t, { FORCE_COLOR: '1' }).run('nope')).stderr).toContain('\u001b[31m✖')
    expect((await createCli(t, { FORCE_COLOR: '1', NO_COLOR: '1' }).run('nope')).stderr).toContain('✖')
  })

  test('a stack is shown with --trace only', async (t) => {
    const cli = createCli(t)
    writeFileSync(join(cli.cwd, 'migration.config.ts'), 'throw new Error("no such variable")\n')
    expect((await cli.run('plan')).stderr).not.toMatch(/^ +at /m)
    expect((await cli.run('plan', '--trace')).stderr).toMatch(/^ +at /m)
  })
})

test('schema prints one JSON Schema', async (t) => {
  const cli = createCli(t, nowhere)
  const { stdout, stderr, exitCode } = await cli.run('schema')
  expect({ stderr, exitCode }).toEqual({ stderr: '', exitCode: 0 })
  const schema = JSON.parse(stdout) as { properties: object; required: string[] }
  expect(schema.required).toEqual(expect.arrayContaining(['name', 'kind', 'mappings']))
  expect(schema.properties).toHaveProperty('backfill')
  expect((await cli.run('schema', '--json')).stdout).toBe(stdout)
})

describe('init', () => {
  test('writes a file with numbered next steps, and never overwrites it', async (t) => {
    const cli = createCli(t)
    const first = await cli.run('init', 'people')
    expect(first.exitCode).toBe(0)
    expect(first.stdout).toBe('Wrote migration.config.ts: reshape one table into a new one.\n')
    expect(first.stderr).toMatch(
      /^→ 1\. .*\n→ 2\. .*\n→ 3\. .*crossfade plan people\n→ 4\. .*crossfade dev\n→ 5\. /,
    )
    const second = await cli.run('init', 'orders')
    expect(second.exitCode).toBe(2)
    expect(second.stderr).toMatch(
      /exists already; nothing was written\.\n→ .*init-migration orders --config orders\.config\.ts/,
    )
    expect((await cli.run('__names')).stdout).toBe('people\n')
  })

  test('the form of runbooks writes the file that it is told', async (t) => {
    const cli = createCli(t)
    const { exitCode, answer } = await cli.json(
      'init-migration',
      'accounts',
      '--config',
      'a/accounts.json',
      '--template',
      'split',
    )
    expect(exitCode).toBe(0)
    expect(answer).toMatchObject({
      ok: true,
      name: 'accounts',
      path: join(cli.cwd, 'a/accounts.json'),
      template: 'split',
    })
  })
})

test('a server that does not answer is told within seconds, with what to do', async (t) => {
  const { exitCode, stderr } = await createCli(t, nowhere).run('list')
  expect(exitCode).toBe(1)
  expect(stderr).toBe(
    '✖ No Temporal server answers at 127.0.0.1:1.\n→ Start one with `crossfade dev`, or set TEMPORAL_ADDRESS.\n' +
      'TEMPORAL.UNREACHABLE · docs/errors.md#temporal-unreachable\n',
  )
})
