import { setTimeout as delay } from 'node:timers/promises'
import { Option } from 'commander'
import type { MigrationHandle, MigrationStatus } from '../../client.ts'
import {
  nameArgument,
  type CommandSpec,
  type Context,
  type Result,
  type TemporalOptions,
} from '../command.ts'
import { exitCodeOfOutcome, exitCodes, type ExitCode } from '../exit-codes.ts'
import { detachOnSignals, lineEveryMs, readStatus } from '../follow.ts'
import { waitingOf } from '../output/answer.ts'
import { renderJson } from '../output/json.ts'
import { progressLine, renderStatus, standing, statusJson } from '../output/progress.ts'
import { withClient } from '../temporal.ts'

interface StatusOptions extends TemporalOptions {
  readonly watch?: boolean
  readonly exitCode?: boolean
}

export const status: CommandSpec<StatusOptions> = {
  name: 'status',
  summary: 'show where a migration stands, and what it waits for',
  description:
    'Answers without a worker, too: then with what Temporal itself knows. --watch follows until the migration ends: a live page on a ' +
    'terminal, else a line per change and every 30 s; with --json one JSON object a line.',
  examples: [
    { run: 'crossfade status people', does: 'once' },
    { run: 'crossfade status people --watch', does: 'until it ends; Ctrl-C leaves it running' },
    { run: 'crossfade status people --json | jq .waiting.command', does: 'the command that answers' },
  ],
  arguments: [nameArgument()],
  options: [
    new Option('-w, --watch', 'follow it until it ends'),
    new Option(
      '--exit-code',
      'exit with 3 while a person is needed, 4 when it was aborted, 1 when it failed',
    ),
  ],
  usesTemporal: true,
  run: (context, options, [name = '']) =>
    withClient(options, async (client) => {
      const handle = client.get(name)
      if (options.watch) return watch(context, handle)
      const found = await readStatus(handle)
      return {
        ...answer(context, found),
        exitCode: options.exitCode ? exitCodeOfStatus(found) : exitCodes.done,
      }
    }),
}

function answer({ streams }: Context, found: MigrationStatus): Result {
  return { data: statusJson(found), text: renderStatus(found, Date.now(), streams) }
}

function exitCodeOfStatus(found: MigrationStatus): ExitCode {
  if (waitingOf(found)) return exitCodes.waiting
  if (found.execution !== 'RUNNING' && found.execution !== 'COMPLETED') return exitCodes.failed
  return exitCodeOfOutcome(found.detail?.outcome ?? 'running')
}

const lookEveryMs = 1000

async function watch(context: Context, handle: MigrationHandle): Promise<Result> {
  const { streams, json } = context
  detachOnSignals(context, handle.name)
  const isLive = streams.isTerminal && !json
  let said = ''
  let saidAt = 0
  for (;;) {
    const found = await readStatus(handle)
    const isOver = found.execution !== 'RUNNING'
    const now = Date.now()
    if (isLive)
      streams.draw([
        ...renderStatus(found, now, streams),
        ...(isOver ? [] : ['', streams.style('dim', 'Ctrl-C leaves; the migration goes on.')]),
      ])
    else if (standing(found) !== said || isOver || now - saidAt >= lineEveryMs) {
      streams.out(json ? renderJson(statusJson(found), { indent: 0 }) : progressLine(found))
      said = standing(found)
      saidAt = now
    }
    // What was shown is the answer: nothing more is to be said, but how it ended.
    if (isOver) return { data: {}, text: [], exitCode: exitCodeOfStatus(found), isShown: true }
    await delay(lookEveryMs)
  }
}
