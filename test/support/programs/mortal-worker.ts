// Runs activities as a worker does, each in the order it is sent, and kills itself with SIGKILL where it has committed something that it
// was not told to survive: after the commit, before anything can follow from it.
import { createActivities } from '../../../src/activities/index.ts'
import { openDatabase, type Database } from '../../../src/database/index.ts'
import { withActivityContext } from '../activity-context.ts'
import { eventually } from '../wait.ts'
import type { MortalAnswer, MortalOrder } from '../mortal-worker.ts'

const url = process.argv[2] ?? ''
/** What the current activity says that it is doing. */
let doing = ''
const steps = new Set<string>()
let order: MortalOrder | undefined

const send = (answer: MortalAnswer): Promise<void> =>
  new Promise((resolve) => process.send?.(answer, undefined, undefined, () => resolve()))

const place = (): string => `${order?.name ?? ''} · ${doing}`
const labelOf = (sql: string): string => `${place()} · ${sql.replaceAll(/\s+/g, ' ').slice(0, 90)}`

async function dieUnlessSurvived(label: string): Promise<void> {
  if (!order?.dies || order.survived.includes(label)) return
  await send({ died: label })
  process.kill(process.pid, 'SIGKILL')
  await new Promise(() => undefined)
}

function mortal(database: Database): Database {
  return {
    name: database.name,
    dialect: database.dialect,
    close: () => database.close(),
    async transaction(work, options) {
      let wrote: string | undefined
      const result = await database.transaction(async (tx) => {
        let last = ''
        const answer = await work({
          query: (sql, values) => {
            last = sql
            return tx.query(sql, values)
          },
        })
        const { rows } = await tx.query('SELECT pg_current_xact_id_if_assigned() IS NOT NULL AS wrote')
        if (rows[0]?.['wrote'] === 't') wrote = last
        return answer
      }, options)
      if (wrote !== undefined) await dieUnlessSurvived(labelOf(wrote))
      return result
    },
    async standalone(sql, options) {
      const underWay = `${labelOf(sql)} (under way)`
      const isBuild = sql.startsWith('CREATE ')
      if (isBuild && order?.dies && !order.survived.includes(underWay)) {
        // A build waits for every older snapshot: this one goes with the process, and the server builds on alone.
        await database.transaction(
          async (tx) => {
            await tx.query('SELECT 1')
            void database.standalone(sql, options)
            await eventually(async () => {
              const waiting = await database.transaction((other) =>
                other.query(
                  `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'virtualxid' AND query LIKE '%CREATE%CONCURRENTLY%'`,
                ),
              )
              return waiting.rowCount > 0
            })
            await dieUnlessSurvived(underWay)
          },
          { snapshot: true },
        )
      }
      await database.standalone(sql, options)
      await dieUnlessSurvived(labelOf(sql))
    },
  }
}

const database = await openDatabase('default', { url, maxConnections: 6, applicationName: 'mortal worker' })
const activities = createActivities({ openDatabase: () => Promise.resolve(mortal(database)) })

process.on('message', (next: MortalOrder | 'end') => {
  if (next === 'end') {
    void database.close().then(() => process.disconnect())
    return
  }
  order = next
  doing = ''
  const activity = activities[next.name] as (input: unknown) => Promise<unknown>
  const report = (progress: unknown): void => {
    doing = (progress as { step?: string }).step ?? ''
    if (doing !== '') steps.add(place())
  }
  withActivityContext(() => activity(next.input), report)
    .then(
      (result) => send({ result, steps: [...steps] }),
      (error: Error & { type?: string }) => send({ failed: `${error.type ?? error.name}: ${error.message}` }),
    )
    .catch(() => undefined)
})
await send({ ready: true })
