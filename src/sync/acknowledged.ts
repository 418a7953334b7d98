import type { Instance } from '../database/index.ts'
import { rest, type Workplace } from '../copy/workplace.ts'
import { CrossfadeError } from '../errors/index.ts'

const lookMs = 100

interface Watch {
  readonly signal: AbortSignal
  report(progress: object): void
}

/**
 * Waits until every instance of the application acts on the flags as they are now, or its lease has run out: a lease and a quarter of
 * it at most (docs/decisions/0021). What the flags say does not count: so everybody knows who captures what.
 * @returns the instances that live
 */
export async function untilAcknowledged(
  { database, scope }: Workplace,
  { signal, report }: Watch,
): Promise<readonly Instance[]> {
  const { flags } = database.dialect
  const epoch = (await database.transaction((tx) => flags.read(tx, scope)))?.epoch ?? 0
  for (;;) {
    const live = (await database.transaction((tx) => flags.instances(tx, scope))).filter(
      ({ isLive }) => isLive,
    )
    const behind = live.filter((instance) => instance.epoch < epoch)
    report({ step: 'instances act on the flags', waitingFor: behind.map(({ id }) => id) })
    if (behind.length === 0) return live
    if (signal.aborted) throw stopped()
    await rest(lookMs, signal)
  }
}

const stopped = (): CrossfadeError =>
  new CrossfadeError({
    kind: 'unavailable',
    code: 'DDL.CANCELLED',
    message: 'Waiting for the instances of the application was stopped.',
    mend: 'Nothing to do: it starts again when the migration goes on.',
  })

/** @throws `SYNC.NO_INSTANCE`: a check that ran on nothing proves nothing. */
export function assertSomeInstance(instances: readonly Instance[], migration: string): void {
  if (instances.length > 0) return
  throw new CrossfadeError({
    kind: 'refused',
    code: 'SYNC.NO_INSTANCE',
    message: `No instance of the application takes part in ${migration}, and it is the application that captures its writes.`,
    mend: `Deploy the application with createCrossfade({ migration: '${migration}' }) of crossfade-db/app everywhere, and resume; \`crossfade flags ${migration}\` lists who has announced itself.`,
  })
}
