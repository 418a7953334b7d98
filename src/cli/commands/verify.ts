import type { StatusView } from '../../core/state.ts'
import { CrossfadeError } from '../../errors/index.ts'
import { nameArgument, type CommandSpec, type Result, type TemporalOptions } from '../command.ts'
import { exitCodes } from '../exit-codes.ts'
import { readStatus } from '../follow.ts'
import { formatCount, renderFields } from '../output/table.ts'
import { withClient } from '../temporal.ts'

export const verify: CommandSpec<TemporalOptions> = {
  name: 'verify',
  summary: 'show the parity of both sides and the last comparison',
  description:
    'Exits with 5 when the last comparison found mismatches (each was looked at twice), with 1 when nothing was compared yet.',
  examples: [
    { run: 'crossfade verify people', does: 'parity with its bound' },
    { run: 'crossfade verify people --json | jq .parity.lowerBound', does: 'for a dashboard' },
  ],
  arguments: [nameArgument()],
  usesTemporal: true,
  run: ({ streams }, options, [name = '']) =>
    withClient(options, async (client) => {
      const { detail } = await readStatus(client.get(name), 5000)
      if (!detail)
        throw new CrossfadeError({
          kind: 'unavailable',
          code: 'TEMPORAL.NO_WORKER',
          message: `No worker answered for ${name} within 5 s, so its parity is not known here.`,
          mend: 'Start one with `crossfade worker`.',
        })
      return answer(name, detail, (text) => streams.style('dim', text))
    }),
}

const percent = (ratio: number): string => `${(100 * ratio).toFixed(4)} %`

function answer(
  name: string,
  { verify: last, parity, changeLog, phase }: StatusView,
  dim: (text: string) => string,
): Result {
  if (last.pass === 0 && !parity)
    throw new CrossfadeError({
      kind: 'refused',
      code: 'VERIFY.NOTHING_COMPARED',
      message: `Nothing of ${name} was compared yet: it is in ${phase}, and a check that ran on nothing proves nothing.`,
      mend: `Comparing begins when the backfill is complete: \`crossfade status ${name} --watch\`.`,
    })
  const mismatched = Math.max(last.mismatched, parity?.mismatched ?? 0)
  return {
    ok: true,
    exitCode: mismatched > 0 ? exitCodes.findings : exitCodes.done,
    data: { name, phase, mismatched, parity, lastComparison: last, changeLog },
    text: [
      `${name} · ${mismatched === 0 ? 'no mismatch' : `${formatCount(mismatched)} mismatches`}`,
      '',
      ...renderFields(
        [
          ...(parity
            ? ([
                ['Parity', percent(parity.parity)],
                [
                  'Bound',
                  `at least ${percent(parity.lowerBound)} at ${Math.round(100 * parity.confidence)} % confidence`,
                ],
                [
                  'Proven',
                  parity.proven ? 'yes: the gate of cutover may open' : 'no: the gate of cutover stays shut',
                ],
              ] as [string, string][])
            : []),
          [
            'Comparison',
            `pass ${last.pass}: ${formatCount(last.compared)} compared, ${formatCount(last.mismatched)} mismatched, ${formatCount(last.repaired)} repaired`,
          ],
          [
            'Change log',
            `${formatCount(changeLog.pending)} pending, the oldest ${changeLog.oldestAgeSec.toFixed(1)} s old`,
          ],
        ],
        dim,
      ),
    ],
    next: [`What it does with that: crossfade status ${name}`],
  }
}
