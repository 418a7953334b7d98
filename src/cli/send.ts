import { Option } from 'commander'
import type { CrossfadeClient, MigrationHandle } from '../client.ts'
import { CrossfadeError } from '../errors/index.ts'
import { parseDurationOption, type Context, type Result, type TemporalOptions } from './command.ts'
import { follow, followed, type Until } from './follow.ts'
import { withClient } from './temporal.ts'

/** Options of every command that sends something to a running migration. */
export interface SendOptions extends TemporalOptions {
  readonly by?: string
  readonly wait?: boolean
  readonly timeout?: number
}

export const byOption = (): Option =>
  new Option('--by <person>', 'who says so (default: CROSSFADE_BY, your user name)')

export const waitOptions = (): Option[] => [
  new Option('--wait', 'follow it until it ends or needs a person'),
  new Option('--timeout <duration>', 'how long to wait: 30s, 10m, 2h (default: for ever)').argParser(
    parseDurationOption,
  ),
]

/** --timeout alone would do nothing, silently. */
export function checkTimeout({ wait, timeout }: Pick<SendOptions, 'wait' | 'timeout'>): void {
  if (timeout === undefined || wait) return
  throw new CrossfadeError({
    kind: 'input',
    code: 'CLI.TIMEOUT_WITHOUT_WAIT',
    message: '--timeout says how long --wait waits; without --wait it means nothing.',
    mend: 'Add --wait, or leave --timeout away.',
  })
}

/** Sends one message, says the migration's answer, and follows it where that was asked for. */
export async function send(
  context: Context,
  name: string,
  options: SendOptions,
  message: (handle: MigrationHandle, client: CrossfadeClient) => Promise<string>,
  next: readonly string[],
  until: Until = 'the end',
): Promise<Result> {
  checkTimeout(options)
  return withClient(options, async (client) => {
    const handle = client.get(name)
    const answer = await message(handle, client)
    const said = `${name}: ${answer}.`
    if (!options.wait) return { data: { name, answer }, text: [said], next }
    context.streams.note(said)
    return followed(context, await follow(context, handle, { until, timeoutMs: options.timeout }))
  })
}
