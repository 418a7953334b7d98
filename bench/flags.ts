import assert from 'node:assert/strict'
import { openApplicationSide } from '../src/database/application.ts'
import { createFlagStore, type FlagStore } from '../src/flags/flag-store.ts'
import { createItems, expandItems, median, withServer, type Bench, type Stage } from './support.ts'

const flag = 'bench.new_schema_read'

/** Instances that all must act on a flip before it counts as arrived. */
const instances = 3

/** Flips whose median is one run's propagation. */
const flips = 20

async function flip({ place: { database, scope } }: Stage, percent: number): Promise<number> {
  return database.transaction((tx) => database.dialect.flags.set(tx, scope, { [flag]: percent }))
}

/** A key of its own for each look-up. By the time that a core worked on it: what else this machine does must not count. */
function evaluationsPerSec(store: FlagStore, evaluations: number): number {
  let on = 0
  const before = process.cpuUsage()
  for (let i = 0; i < evaluations; i++) if (store.isOn(flag, `user-${i}`)) on++
  const { user, system } = process.cpuUsage(before)
  assert(Math.abs(on / evaluations - 0.5) < 0.05, `${on} of ${evaluations} were on at 50 %`)
  return evaluations / ((user + system) / 1e6)
}

/** From the commit until every instance acts on it: with the event loop free, as in a service. */
async function propagationMs(stage: Stage, stores: readonly FlagStore[]): Promise<number> {
  const times: number[] = []
  for (let i = 1; i <= flips; i++) {
    const epoch = await flip(stage, i % 2 === 0 ? 50 : 100)
    const committedAt = performance.now()
    while (stores.some((store) => store.epoch !== epoch))
      await new Promise((resolve) => setImmediate(resolve))
    times.push(performance.now() - committedAt)
  }
  return median(times)
}

export const flags: Bench = {
  summary: 'look-ups of a flag at 50 %, one core; how long a flip takes to every instance',
  rows: 2_000_000,
  runs: 5,
  run: ({ rows, runs, say }) =>
    withServer(async (pool, url) => {
      await createItems(pool, 1)
      const stage = await expandItems(url, 'fast')
      await flip(stage, 50)
      const sides = Array.from({ length: instances }, () => openApplicationSide(pool, stage.migration.name))
      const stores = await Promise.all(
        sides.map((side, i) =>
          createFlagStore({
            side,
            salt: stage.migration.name,
            instance: { id: `instance ${i}`, version: '1', leaseMs: 60_000 },
          }),
        ),
      )
      const [first] = stores
      const samples = { evaluationsPerSec: [] as number[], propagationMs: [] as number[] }
      try {
        for (let run = 1; run <= runs; run++) {
          samples.propagationMs.push(await propagationMs(stage, stores))
          if (first) samples.evaluationsPerSec.push(evaluationsPerSec(first, rows))
          say(
            `run ${run}: ${Math.round(samples.evaluationsPerSec.at(-1) ?? 0)} evaluations/s, ${samples.propagationMs.at(-1)?.toFixed(2)} ms`,
          )
        }
      } finally {
        for (const store of stores) await store.close()
        for (const side of sides) await side.close()
        await stage.close()
      }
      return { samples, ratios: {} }
    }),
}
