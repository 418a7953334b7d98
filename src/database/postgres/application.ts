import type { ApplicationPool, ApplicationSide, Announcement, Standing } from '../application.ts'
import { answerMs, isAbsent, onConnection, poolLike, rawText } from './application-connection.ts'
import { readStanding } from './application-standing.ts'
import { openPostgresWrites } from './application-writes.ts'
import { quoteIdentifier } from './identifiers.ts'
import { inScope, scopeOf } from './scope.ts'

export function openPostgresSide(applicationPool: ApplicationPool, migration: string): ApplicationSide {
  const scope = scopeOf(migration)
  const pool = poolLike(applicationPool)
  const one = async (text: string, values: unknown[]): Promise<string | null | undefined> => {
    const { rows } = await onConnection(pool, (client) =>
      client.query({ text, values, types: rawText, query_timeout: answerMs }),
    )
    return rows[0]?.['it']
  }
  const parse = <T>(text: string | null | undefined): T | undefined =>
    text ? (JSON.parse(text) as T) : undefined

  const announce = ({ id, version, standing, leaseMs }: Announcement): Promise<string | null | undefined> =>
    one(`SELECT ${inScope(scope, 'announce')}($1, $2, $3, $4, $5) AS it`, [
      id,
      version,
      standing?.incarnation ?? '',
      standing?.epoch ?? -1,
      leaseMs,
    ])

  return {
    async announce(announcement) {
      for (const attempt of [() => announce(announcement), () => one(readStanding(scope), [])])
        try {
          return parse<Standing>(await attempt())
        } catch (error) {
          if (!isAbsent(error)) throw error
        }
      return undefined
    },

    async leave(id) {
      await one(`SELECT ${inScope(scope, 'leave')}($1)::text AS it`, [id]).catch((error: unknown) => {
        if (!isAbsent(error)) throw error
      })
    },

    async report(id, measured) {
      await one(`SELECT ${inScope(scope, 'report')}($1, $2)::text AS it`, [
        id,
        JSON.stringify(measured),
      ]).catch((error: unknown) => {
        if (!isAbsent(error)) throw error
      })
    },

    metricSettings: async () =>
      parse(await one(`SELECT definition::jsonb->'metrics' AS it FROM ${inScope(scope, 'state')}`, [])),

    async listen(onChange, onEnd) {
      const client = await pool.connect()
      let isOver = false
      const end = (): void => {
        if (isOver) return
        isOver = true
        client.release(true)
        onEnd()
      }
      client.on('error', end)
      client.on('end', end)
      client.on('notification', onChange)
      try {
        await client.query({ text: `LISTEN ${quoteIdentifier(scope.schema)}`, query_timeout: answerMs })
      } catch (error) {
        if (!isOver) client.release(true)
        isOver = true
        throw error
      }
      return end
    },

    writes: openPostgresWrites(scope, applicationPool, pool),
    close: () => pool.end(),
  }
}
