import { spawnSync } from 'node:child_process'
import { CommanderError, type Command } from 'commander'
import { describe, expect, test } from 'vitest'
import { type CrossfadeError } from '../errors/index.ts'
import { commandDetails } from './command.ts'
import { exitCodeOf, exitCodes } from './exit-codes.ts'
import type { Streams } from './output/streams.ts'
import { createProgram, runProgram, toUsageError } from './program.ts'
import { renderCompletion } from './shell-completion.ts'

function testStreams(): Streams & { readonly written: string[] } {
  const written: string[] = []
  return {
    written,
    out: (line) => void written.push(line),
    note: (line) => void written.push(`! ${line}`),
    draw: () => undefined,
    style: (_, text) => text,
    noteStyle: (_, text) => text,
    isTerminal: false,
    canAsk: false,
    columns: 80,
    ask: () => Promise.resolve(''),
    flush: () => Promise.resolve(),
  }
}

const create = (streams = testStreams()): Command => createProgram(streams, () => undefined)
const commands = create().commands.filter((command) => command.name() !== 'help')

async function usageError(...argv: string[]): Promise<CrossfadeError> {
  const error: unknown = await runProgram(create(), argv).catch((caught: unknown) => caught)
  return error instanceof CommanderError ? toUsageError(error, argv) : (error as CrossfadeError)
}

test('a URL in the place of a database’s name is refused, and its password is not repeated', async () => {
  const error = await usageError('flags', 'people', '--database', 'postgres://ann:hunter2@db/app')
  expect(error).toMatchObject({ kind: 'input', code: 'DATABASE.NOT_CONFIGURED' })
  expect(`${error.message} ${error.mend}`).toContain('CROSSFADE_DATABASE_<NAME>_URL')
  expect(`${error.message} ${error.mend}`).not.toMatch(/hunter2|HUNTER2/)
})

describe.each(commands.map((command) => [command.name(), command] as const))('%s', (name, command) => {
  test('has one line, and two examples with real names', () => {
    const details = commandDetails(command)
    expect(command.summary()).toMatch(/^[a-z][^\n]{10,90}[^.]$/)
    expect(details?.examples.length).toBeGreaterThanOrEqual(2)
    for (const { run, does } of details?.examples ?? []) {
      expect(run).toContain(`crossfade ${name}`)
      expect(run).not.toMatch(/\bNAME\b|<[a-z]|foo|bar/)
      expect(does).not.toBe('')
    }
  })

  test('its examples are command lines that it takes', () => {
    for (const { run } of commandDetails(command)?.examples ?? []) {
      const [, line = ''] = /crossfade (.*?)(?: [|>] .*|\))?$/.exec(run) ?? []
      const argv = [...line.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, bare]) => quoted ?? bare ?? '')
      const program = create()
      const parsed = program.commands.find((each) => each.name() === argv[0])
      let ran = false
      parsed?.action(() => void (ran = true))
      program.parse(argv, { from: 'user' })
      expect(ran, run).toBe(true)
    }
  })

  test('takes --json, --no-input and --trace', () => {
    expect(command.options.map((option) => option.long)).toEqual(
      expect.arrayContaining(['--json', '--no-input', '--trace']),
    )
  })
})

describe('a wrong command line', () => {
  test.each([
    [['pln'], 'CLI.UNKNOWN_COMMAND', 'Did you mean plan?'],
    [['rollback', 'people', '--now'], 'CLI.UNKNOWN_COMMAND', 'Did you mean crossfade abort?'],
    [['status', 'people', '--wacth'], 'CLI.UNKNOWN_OPTION', 'Did you mean --watch?'],
    [['status'], 'CLI.MISSING_ARGUMENT', 'crossfade status --help'],
    [['status', 'people', 'orders'], 'CLI.EXCESS_ARGUMENT', 'crossfade status --help'],
    [['status', 'People!'], 'CLI.INVALID_VALUE', 'crossfade status --help'],
    [['approve', 'people'], 'CLI.MISSING_OPTION', 'crossfade approve --help'],
    [['approve', 'people', '--gate', 'verify'], 'CLI.INVALID_VALUE', 'crossfade approve --help'],
    [['configure', 'people', '--batch-size'], 'CLI.MISSING_VALUE', 'crossfade configure --help'],
    [['configure', 'people', '--batch-size', 'many'], 'CLI.INVALID_VALUE', 'crossfade configure --help'],
    [['configure', 'people', '--batch-size', '0'], 'CLI.INVALID_SETTING', 'crossfade configure --help'],
    [['run', '--dry-run', '--execute'], 'CLI.CONFLICTING_OPTIONS', 'crossfade run --help'],
    [['run', '--start'], 'CLI.OPTION_WITHOUT_PHASE', 'crossfade run --help'],
    [['resume', 'people', '--timeout', '1h'], 'CLI.TIMEOUT_WITHOUT_WAIT', 'Add --wait'],
    [['approve', 'people', '--gate', 'expand'], 'CLI.TOKEN_NEEDED', 'crossfade plan people'],
    [['help', 'me'], 'CLI.UNKNOWN_TOPIC', 'exit-codes'],
  ])('%j is %s', async (argv, code, mend) => {
    const error = await usageError(...argv)
    expect(error.code).toBe(code)
    expect(error.mend).toContain(mend)
    expect(exitCodeOf(error)).toBe(exitCodes.usage)
  })

  test('the contract is not approved without the name, and --yes does not exist', async () => {
    const argv = ['approve', 'people', '--gate', 'contract', '--token', 'x']
    expect(await usageError(...argv)).toMatchObject({ code: 'CLI.NOT_CONFIRMED' })
    expect(await usageError(...argv, '--confirm', 'orders')).toMatchObject({ code: 'CLI.NOT_CONFIRMED' })
    expect(await usageError(...argv, '--yes')).toMatchObject({ code: 'CLI.UNKNOWN_OPTION' })
    expect(exitCodeOf(await usageError(...argv))).toBe(exitCodes.waiting)
  })
})

describe('help', () => {
  test('that is asked for goes to stdout, in all three forms', async () => {
    for (const argv of [
      ['status', '--help'],
      ['status', '-h'],
      ['help', 'status'],
    ]) {
      const streams = testStreams()
      await runProgram(create(streams), argv).catch((error: unknown) =>
        expect(error).toMatchObject({ exitCode: 0 }),
      )
      expect(streams.written.join('\n')).toMatch(/^Usage: crossfade status .*\n[^]*Examples:\n/)
    }
  })

  test('lists every exit code', async () => {
    const streams = testStreams()
    await runProgram(create(streams), ['help', 'exit-codes'])
    for (const code of Object.values(exitCodes))
      expect(streams.written.join('\n')).toMatch(new RegExp(`^ +${code}  \\w`, 'm'))
  })
})

describe('completion', () => {
  function complete(...words: string[]): string[] {
    const script = renderCompletion('bash', create())
    const ask = `crossfade() { echo people; echo orders; }; COMP_WORDS=(crossfade ${words.map((word) => `'${word}'`).join(' ')}); COMP_CWORD=${words.length}; _crossfade; printf '%s\\n' "\${COMPREPLY[@]}"`
    const { stdout, stderr } = spawnSync('bash', ['-c', `${script}\n${ask}`], { encoding: 'utf8' })
    expect(stderr).toBe('')
    return stdout.trim().split('\n')
  }

  test.each([
    [['st'], ['status']],
    [['status', 'p'], ['people']],
    [['status', 'people', '--wa'], ['--watch']],
    [
      ['approve', 'people', '--gate', 'c'],
      ['cutover', 'contract'],
    ],
    [['completion', 'z'], ['zsh']],
    [['help', 'exit'], ['exit-codes']],
  ])('bash completes %j to %j', (words, expected) => {
    expect(complete(...words)).toEqual(expected)
  })

  test.each(['zsh', 'fish'] as const)('%s knows every command, and no hidden one', (shell) => {
    const script = renderCompletion(shell, create())
    for (const command of commands.filter((each) => each.name() !== '__names'))
      expect(script).toContain(command.name())
    expect(script).not.toMatch(/-a __names|'__names:/)
  })
})
