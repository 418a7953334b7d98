import type { SyncGroup, Transaction } from '../database/index.ts'
import type { Workplace } from '../copy/workplace.ts'
import { CrossfadeError } from '../errors/index.ts'

/** Partitions come and go while a migration runs for weeks: new ones are followed, and what they came with is copied by key. */
export async function followPartitions(
  { database, scope }: Workplace,
  groups: readonly SyncGroup[],
): Promise<void> {
  for (const group of groups)
    while (
      (
        await database.transaction((tx) => database.dialect.triggers.follow(tx, scope, group), {
          lockTimeoutMs: 200,
        })
      ).length > 0
    );
}

/** What is wrong with the triggers of `groups` now: each disabled, missing or replaced one, in words. */
export async function captureFindings(
  { database, scope }: Workplace,
  tx: Transaction,
  groups: readonly SyncGroup[],
): Promise<string[]> {
  const findings: string[] = []
  for (const group of groups) findings.push(...(await database.dialect.triggers.check(tx, scope, group)))
  return findings
}

/** @throws `SYNC.NOT_CAPTURED`: rule 1 does not hold, and no change log says what was missed. */
export async function assertCaptured(
  place: Workplace,
  tx: Transaction,
  groups: readonly SyncGroup[],
): Promise<void> {
  const findings = await captureFindings(place, tx, groups)
  if (findings.length > 0)
    throw notCaptured(
      findings,
      'Abort this migration and start it again: what was written meanwhile may be missing from the change log.',
    )
}

export function notCaptured(findings: readonly string[], mend: string): CrossfadeError {
  return new CrossfadeError({
    kind: 'refused',
    code: 'SYNC.NOT_CAPTURED',
    message: `Not every change is captured: ${findings.join('; ')}.`,
    mend,
    details: { findings },
  })
}
