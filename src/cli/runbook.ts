import { setTimeout as delay } from 'node:timers/promises'
import type { MigrationHandle, MigrationStatus } from '../client.ts'
import { isBefore } from '../core/phases.ts'
import type { Migration } from '../definition/index.ts'
import type { Context, Result } from './command.ts'
import { follow, followed } from './follow.ts'
import { waitingOf } from './output/answer.ts'
import type { SendOptions } from './send.ts'
import { whoAmI } from './temporal.ts'

/**
 * `run --phase expand --execute`: approves expand where the plan that waits is the one that is known here: its token is that of
 * --token, or of a plan made here and now. Any other gate or trouble is left to a person.
 */
export async function runExpand(
  context: Context,
  handle: MigrationHandle,
  migration: Migration,
  options: SendOptions & { readonly token?: string },
): Promise<Result> {
  const { timeout: timeoutMs } = options
  const status = await follow(context, handle, { until: { phase: 'expand', is: 'over' }, timeoutMs })
  const gate = status.detail?.gate
  if (gate?.gate !== 'expand' || gate.approval || status.detail?.trouble || status.detail?.paused)
    return followed(context, status)
  const known = options.token ?? (await tokenHere(context, migration))
  if (known === undefined || known !== gate.token) {
    if (known !== undefined)
      context.streams.note(
        `The plan that waits has the token ${gate.token}, not ${known}: it was not approved.`,
      )
    return followed(context, status)
  }
  const answer = await handle.approve({ gate: 'expand', by: whoAmI(options.by), token: known })
  context.streams.note(`${handle.name}: ${answer}.`)
  if (options.wait)
    return followed(
      context,
      await follow(context, handle, { until: { phase: 'expand', is: 'over' }, timeoutMs }),
    )
  return {
    data: { name: handle.name, workflowId: handle.workflowId, answer, token: known },
    text: [`${handle.name}: expand runs now; the backfill follows by itself.`],
    next: [
      `Wait for the backfill: crossfade run ${handle.name} --phase backfill --start`,
      `Follow it: crossfade status ${handle.name} --watch`,
    ],
  }
}

/** The token of a plan made here; undefined, with the reason said, where this process cannot look at the database. */
async function tokenHere({ streams }: Context, migration: Migration): Promise<string | undefined> {
  const { planLocally } = await import('./local-plan.ts')
  try {
    return (await planLocally(migration)).summary.token
  } catch (error) {
    streams.note(
      `No plan could be made here to compare with, so expand was not approved: ${error instanceof Error ? error.message : String(error)}`,
    )
    return undefined
  }
}

/** `run --phase backfill --start`: resumes it where it is paused before the end of the backfill, and waits until that has begun. */
export async function runBackfill(
  context: Context,
  handle: MigrationHandle,
  options: SendOptions,
): Promise<Result> {
  const until = { phase: 'backfill', is: options.wait ? 'over' : 'reached' } as const
  const { timeout: timeoutMs } = options
  let status = await follow(context, handle, { until, timeoutMs })
  if (isPausedBeforeItsEnd(status)) {
    context.streams.note(`${handle.name}: ${await handle.resume({ by: whoAmI(options.by) })}.`)
    await delay(100) // the answer comes before the state that follows from it is shown
    status = await follow(context, handle, { until, timeoutMs })
  }
  const hasBegun = status.execution === 'RUNNING' && waitingOf(status) === undefined
  return followed(
    context,
    status,
    hasBegun ? [`${handle.name}: the backfill ${options.wait ? 'is over' : 'has begun'}.`] : [],
  )
}

function isPausedBeforeItsEnd({ detail }: MigrationStatus): boolean {
  return detail?.paused !== undefined && !detail.trouble && !isBefore('backfill', detail.phase)
}
