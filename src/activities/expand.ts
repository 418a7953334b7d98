import { resolveGroups, everyTable, tablesOf } from '../copy/groups.ts'
import type { Workplace } from '../copy/workplace.ts'
import type { TableName } from '../core/link.ts'
import type { DdlStep } from '../database/index.ts'
import { fingerprint, type Migration } from '../definition/index.ts'
import { completeTargets } from '../ddl/complete.ts'
import { captureSteps, foundationSteps } from '../ddl/expand-steps.ts'
import { attempt, runStep } from '../ddl/run-step.ts'
import { CrossfadeError } from '../errors/index.ts'
import { assertSomeInstance, untilAcknowledged } from '../sync/acknowledged.ts'
import { assertCaptured } from '../sync/capture.ts'
import { mostChanges, shorten } from '../plan/drift.ts'
import { makePlan } from '../plan/make-plan.ts'
import { keepColumns, keepFacts, planToken, tellFactDrift } from '../plan/schema-now.ts'
import type { DdlSummary } from './contract.ts'
import type { Bodies, Surroundings } from './surroundings.ts'

export const expandActivities: Pick<Bodies, 'plan' | 'expand' | 'complete' | 'checkCapture' | 'checkDrift'> =
  {
    async plan({ migration, fingerprint: given }, { place }) {
      assertFingerprint(migration, given)
      const plan = await makePlan(await place(migration), migration)
      const [refusal] = plan.findings.filter((finding) => finding.severity === 'refusal')
      if (refusal)
        throw new CrossfadeError({
          kind: 'refused',
          code: 'PLAN.REFUSED',
          message: plan.findings
            .filter((finding) => finding.severity === 'refusal')
            .map((finding) => finding.message)
            .join(' '),
          mend: refusal.mend,
          details: { rules: plan.findings.map((finding) => finding.rule) },
        })
      return plan.summary
    },

    async expand({ migration, fingerprint: given }, around) {
      const place = await around.place(migration)
      const { database, scope } = place
      const tables = everyTable(migration)
      const [scopeStep, ...foundation] = foundationSteps(database.dialect, migration)
      // The definition goes in before anything of the user's schema changes, so that abort can take everything back.
      const first = await runSteps(place, scopeStep ? [scopeStep] : [], tables, around)
      await database.transaction(async (tx) => {
        await database.dialect.definitions.save(tx, scope, given, JSON.stringify(migration))
        await keepColumns(tx, place, migration)
      })
      const before = await runSteps(place, foundation, tables, around)
      const groups = await database.transaction((tx) => resolveGroups(tx, database.dialect, scope, migration))
      const after = await runSteps(place, captureSteps(database.dialect, migration, groups), tables, around)
      await database.transaction((tx) => keepFacts(tx, place, migration))
      await database.transaction((tx) =>
        database.dialect.flags.set(tx, scope, {
          [migration.flags.writeEnabled]: 0,
          [migration.flags.readEnabled]: 0,
          [migration.flags.backfillActive]: 0,
        }),
      )
      return { steps: [...first.steps, ...before.steps, ...after.steps] }
    },

    async complete(ref, around) {
      const { place, migration, groups } = await around.enter(ref)
      const { dialect } = place.database
      const outcomes = await completeTargets(place, migration, groups, around)
      for (const group of groups.forward)
        for (const { link } of group.links) await dialect.ddl.analyze(place.database, link.target.table)
      return { steps: outcomes.map(({ title, did, tookMs }) => ({ title, did, tookMs })) }
    },

    async checkCapture(ref, around) {
      const { place, migration, groups } = await around.enter(ref)
      if (migration.sync.method === 'application') await untilApplicationCaptures(place, migration, around)
      await place.database.transaction((tx) => assertCaptured(place, tx, groups.forward))
    },

    async checkDrift({ token, ...ref }, around) {
      const { place, migration } = await around.enter(ref)
      const now = await planToken(place, migration, token)
      if (now.token === token) return assertFacts(place, migration, around.call)
      throw new CrossfadeError({
        kind: 'refused',
        code: 'PLAN.DRIFT',
        message: `The schema of ${now.tables.join(', ')} is not the one that was planned for (token ${now.token} instead of ${token})${now.changes.length > 0 ? `: ${shorten(now.changes)}` : ''}.`,
        mend: 'Somebody changed its columns since the plan. Change them back and resume, or abort and start again.',
        details: { tables: now.tables, changes: now.changes.slice(0, mostChanges) },
      })
    },
  }

/**
 * Rule 1, where the application captures: every instance knows of it, and what one began before it knew has ended. An instance decides
 * after its write whether to capture it, so until then it holds the table: the lock waits for that, and is given back at once.
 */
async function untilApplicationCaptures(
  place: Workplace,
  migration: Migration,
  around: Surroundings,
): Promise<void> {
  assertSomeInstance(await untilAcknowledged(place, around), migration.name)
  const { database } = place
  const { old } = tablesOf(migration)
  await attempt(
    place,
    'Wait for what the application began before it captured',
    old,
    around,
    ({ lockTimeoutMs }) =>
      database.transaction((tx) => database.dialect.ddl.lockAgainstWrites(tx, old), { lockTimeoutMs }),
  )
}

/** @throws `PLAN.DRIFT` once for each change; resuming the migration accepts it. */
async function assertFacts(place: Workplace, migration: Migration, call: string): Promise<void> {
  const changes = await tellFactDrift(place, migration, call)
  if (changes.length === 0) return
  throw new CrossfadeError({
    kind: 'refused',
    code: 'PLAN.DRIFT',
    message: `Since the plan this changed beside the columns: ${shorten(changes)}.`,
    mend: `Does the new side need the same? Then change it there. \`crossfade resume ${migration.name}\` goes on with what is there now.`,
    details: { changes: changes.slice(0, mostChanges) },
  })
}

/** A workflow started by hand may carry a fingerprint that was not made from its definition. */
function assertFingerprint(migration: Migration, given: string): void {
  const right = fingerprint(migration)
  if (right === given) return
  throw new CrossfadeError({
    kind: 'input',
    code: 'DEFINITION.FINGERPRINT',
    message: `The fingerprint of the input (${given.slice(0, 8)}) is not that of its definition (${right.slice(0, 8)}).`,
    mend: 'Start it with `crossfade run` or `start` of the client, in the version of crossfade-db that the worker runs: they fill in the defaults and compute it.',
  })
}

async function runSteps(
  place: Workplace,
  steps: readonly DdlStep[],
  tables: readonly TableName[],
  around: Surroundings,
): Promise<DdlSummary> {
  const done: DdlSummary['steps'][number][] = []
  for (const step of steps) {
    const { title, did, tookMs } = await runStep(place, step, tables, around)
    done.push({ title, did, tookMs })
  }
  return { steps: done }
}
