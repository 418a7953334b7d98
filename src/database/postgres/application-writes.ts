import type { EventEmitter } from 'node:events'
import type {
  ApplicationClient,
  ApplicationPool,
  ApplicationWrites,
  CapturedKeys,
  Standing,
  TransactionClient,
  WrittenKey,
} from '../application.ts'
import type { Scope } from '../steps.ts'
import { answerMs, isAbsent, onConnection, rawText } from './application-connection.ts'
import { askStanding, findStanding, readStanding } from './application-standing.ts'
import { movedMark } from './moved-mark.ts'
import { inScope } from './scope.ts'

/** What an application's writes call of `application-capture.ts`: in its own transaction from its own pool, and after it from ours. */
export function openPostgresWrites(
  scope: Scope,
  applicationPool: ApplicationPool,
  ownPool: Pick<ApplicationPool, 'connect'>,
): ApplicationWrites {
  const call = (word: string, log: string, argument: string): string =>
    `${inScope(scope, `${word}_${log}`)}(${argument})`
  const ask = async (client: TransactionClient, text: string, values: unknown[]): Promise<unknown> =>
    (await client.query({ text, values })).rows.map((row) => (row as { it?: unknown }).it)[0]

  const askOwn = async (word: string, log: string, keys: readonly WrittenKey[] | null): Promise<unknown> => {
    const { rows } = await onConnection(ownPool, (client) =>
      client.query({
        text: `SELECT ${call(word, log, '$1::jsonb')} AS it`,
        values: [keys && JSON.stringify(keys)],
        types: rawText,
        query_timeout: answerMs,
      }),
    )
    return JSON.parse(rows[0]?.['it'] ?? 'null') as unknown
  }

  /**
   * One message each way, three in all. The server ends what takes too long, so that nothing of ours piles up there. What a crash of
   * the server undoes is back in the log.
   */
  async function afterCommit(
    timeoutMs: number,
    use: (client: ApplicationClient) => Promise<number>,
  ): Promise<number> {
    const limits = `SET LOCAL statement_timeout = ${Math.ceil(timeoutMs)}; SET LOCAL synchronous_commit = off`
    const done = await onConnection(ownPool, async (client) => {
      try {
        await client.query({
          text: `BEGIN ISOLATION LEVEL READ COMMITTED; ${limits}`,
          query_timeout: answerMs,
        })
        const copied = await use(client)
        await client.query({ text: 'COMMIT', query_timeout: timeoutMs + answerMs })
        return { copied }
      } catch (error) {
        // A refused row is everyday: the connection is as good as before, where it answers.
        await client.query({ text: 'ROLLBACK', query_timeout: answerMs })
        return { error }
      }
    })
    if ('error' in done) throw done.error
    return done.copied
  }

  const take = async (
    word: string,
    client: ApplicationClient,
    { log, keys }: CapturedKeys,
    timeoutMs: number,
  ): Promise<number> => {
    const { rows } = await client.query({
      text: `SELECT ${call(word, log, '$1::jsonb')} AS it`,
      values: [JSON.stringify(keys)],
      types: rawText,
      query_timeout: timeoutMs + answerMs,
    })
    return Number(rows[0]?.['it'] ?? 0)
  }

  return {
    async transact(work) {
      const client = await applicationPool.connect()
      let broken: Error | undefined
      const onError = (error: Error): void => void (broken = error)
      client.on('error', onError)
      try {
        await client.query({ text: 'BEGIN' })
        const { result, capture } = await work(client)
        return { result, epoch: await commit(client, capture) }
      } catch (error) {
        await client.query({ text: 'ROLLBACK' }).catch(onError)
        throw error
      } finally {
        client.off('error', onError)
        client.release(broken)
      }
    },

    async capture(client, { log, keys }) {
      return Number(
        await ask(client, `SELECT ${call('capture', log, '$1::jsonb')} AS it`, [JSON.stringify(keys)]),
      )
    },

    async standingWithin(client) {
      // A name that is not there would end the application's transaction.
      const { rows } = await client.query(findStanding(scope))
      const there = rows[0] as { called?: unknown; read?: unknown } | undefined
      if (!there?.called && !there?.read) return undefined
      const found = await ask(client, there.called ? askStanding(scope) : readStanding(scope), [])
      return typeof found === 'string' ? (JSON.parse(found) as Standing) : undefined
    },

    apply: (captured, timeoutMs) =>
      afterCommit(timeoutMs, (client) => take('apply', client, captured, timeoutMs)),

    applyBy: (captured, timeoutMs, by) =>
      afterCommit(timeoutMs, async (client) => {
        const held = await take('hold', client, captured, timeoutMs)
        if (held > 0) await by(client)
        return held
      }),

    pending: async ({ log, keys }) => (await askOwn('pending', log, keys)) as WrittenKey[],
    isEmpty: async (log) => (await askOwn('pending', log, null)) === false,

    isPrimaryMoved: (error) => (error as { constraint?: unknown } | undefined)?.constraint === movedMark,
    isOver: isAbsent,

    onTransactionEnd(client, onEnd) {
      const { connection } = client as { connection?: EventEmitter }
      if (typeof connection?.on !== 'function') return false
      // https://www.postgresql.org/docs/18/protocol-message-formats.html, ReadyForQuery: `I` is outside of a transaction.
      const onReady = ({ status }: { status?: string }): void => {
        if (status !== 'I') return
        connection.off('readyForQuery', onReady)
        onEnd()
      }
      connection.on('readyForQuery', onReady)
      return true
    },
  }

  /**
   * Two statements in one message: where the first fails, the second is not run. Keys go as hexadecimal digits, because such a message
   * takes no parameters. Without a capture, a statement that does nothing fails where `work` has passed over an error, and what would
   * be a COMMIT that rolls back silently is an error, too.
   */
  async function commit(
    client: ApplicationClient,
    captured: CapturedKeys | undefined,
  ): Promise<number | undefined> {
    if (captured === undefined) {
      await client.query({ text: 'SELECT; COMMIT' })
      return undefined
    }
    const hex = Buffer.from(JSON.stringify(captured.keys)).toString('hex')
    const keys = `convert_from(decode('${hex}', 'hex'), 'UTF8')::jsonb`
    const results = (await client.query({
      text: `SELECT ${call('capture', captured.log, keys)} AS it; COMMIT`,
    })) as unknown as { rows: Record<string, unknown>[] }[]
    return Number(results[0]?.rows[0]?.['it'])
  }
}
