import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import pg from 'pg'
import { createCrossfade } from '../app/index.ts'
import { migrationName } from './definition.ts'
import type { Seen } from './ledger.ts'
import type { ReadAnswer, WriteAnswer, WriteRequest } from './requests.ts'
import { newSide, oldSide, takeSteps, type Found, type Run, type Side } from './sides.ts'

/**
 * The application as a service, one instance of it: it reads and writes customers over HTTP. Release 1 knows the old table alone;
 * release 2 takes part in the migration.
 */

export interface ServiceOptions {
  readonly url: string
  readonly release: 1 | 2
}

/** Sent to the parent once it answers. */
export interface ServiceMessage {
  readonly url: string
}

/** What a release knows of the database. */
interface Repository {
  find(key: string | number, ask: (side: Side) => Promise<Found | undefined>): Promise<ReadAnswer>
  write(request: WriteRequest): Promise<WriteAnswer>
  close(): Promise<void>
}

type Client = Pick<pg.ClientBase, 'query'>

const runOn =
  (client: Client): Run =>
  async (sql, values = []) =>
    (await client.query<Record<string, unknown>>(sql, [...values])).rows

/** A request whose answer was lost with an instance is made again: its id, written with it, tells what became of it. */
async function writeOnce(client: Client, side: Side, { id, steps }: WriteRequest): Promise<Seen[]> {
  const run = runOn(client)
  const [fresh] = await run(
    'INSERT INTO demo.requests (id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING id',
    [id],
  )
  if (!fresh) {
    const [known] = await run('SELECT seen FROM demo.requests WHERE id = $1', [id])
    return (known?.['seen'] ?? []) as Seen[]
  }
  const seen = await takeSteps(side, run, steps)
  await run('UPDATE demo.requests SET seen = $2 WHERE id = $1', [id, JSON.stringify(seen)])
  return seen
}

/** In a transaction of the service's own, which some operations take back. */
async function transact<T>(
  pool: pg.Pool,
  rollsBack: boolean,
  work: (client: pg.PoolClient) => Promise<T>,
): Promise<T> {
  const client = await pool.connect()
  try {
    await client.query('BEGIN')
    const result = await work(client)
    await client.query(rollsBack ? 'ROLLBACK' : 'COMMIT')
    return result
  } catch (error) {
    await client.query('ROLLBACK').catch(() => undefined)
    throw error
  } finally {
    client.release()
  }
}

function openRelease1(pool: pg.Pool): Repository {
  const standing = { epoch: -1 }
  return {
    async find(_, ask) {
      return {
        found: await ask(oldSide),
        side: 'old',
        primary: 'old',
        isFallback: false,
        ...standing,
      } as ReadAnswer
    },
    async write(request) {
      const seen = await transact(pool, request.rollsBack, (client) => writeOnce(client, oldSide, request))
      return { seen, ...standing }
    },
    close: () => Promise.resolve(),
  }
}

/** So often the primary side may move while one transaction runs. */
const mostMoves = 5
const serializationFailure = '40001'

async function openRelease2(pool: pg.Pool): Promise<Repository> {
  const crossfade = await createCrossfade({ migration: migrationName, database: pool, leaseMs: 2_000 })
  const toWrite = (request: WriteRequest) => ({
    // Those that it asks for, and those that it makes.
    keys: (seen: readonly Seen[]) => [
      ...new Set([
        ...request.steps.flatMap((step) => ('ids' in step ? step.ids : [])),
        ...seen.map(({ id }) => id),
      ]),
    ],
    old: (client: Client) => writeOnce(client, oldSide, request),
    new: (client: Client) => writeOnce(client, newSide, request),
  })
  /** A transaction that meets the move of the primary side is run again. */
  const writeWithin = async (request: WriteRequest): Promise<Seen[]> => {
    for (let move = 1; ; move++)
      try {
        return await transact(pool, request.rollsBack, (client) =>
          crossfade.write<Seen[], pg.PoolClient>({ client, ...toWrite(request) }),
        )
      } catch (error) {
        if ((error as { code?: string }).code !== serializationFailure || move === mostMoves) throw error
      }
  }
  return {
    async find(key, ask) {
      const { primary, epoch } = crossfade.flags
      const asked: ('old' | 'new')[] = []
      const from = (name: 'old' | 'new', side: Side) => () => {
        asked.push(name)
        return ask(side)
      }
      const found = await crossfade.read(key, { old: from('old', oldSide), new: from('new', newSide) })
      const side = asked.at(-1) ?? primary // comparisons of both sides ask later
      return { ...(found && { found }), side, primary, epoch, isFallback: asked.length > 1 }
    },
    async write(request) {
      // The library's own transaction where one step is all; several belong together in one of the service's.
      const isOwn = request.rollsBack || request.steps.length > 1
      const seen = isOwn ? await writeWithin(request) : await crossfade.write(toWrite(request))
      return { seen, epoch: crossfade.flags.epoch }
    },
    close: () => crossfade.close(),
  }
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString()
}

async function answer(repository: Repository, pool: pg.Pool, request: IncomingMessage): Promise<object> {
  if (request.method === 'POST') return repository.write(JSON.parse(await bodyOf(request)) as WriteRequest)
  const { searchParams } = new URL(request.url ?? '/', 'http://localhost')
  const run = runOn(pool)
  const email = searchParams.get('email')
  if (email !== null) return repository.find(email, (side) => side.findByEmail(run, email))
  const id = Number(searchParams.get('id'))
  return repository.find(id, (side) => side.find(run, id))
}

async function main(): Promise<void> {
  const { url, release } = JSON.parse(process.argv[2] ?? '{}') as ServiceOptions
  const pool = new pg.Pool({ connectionString: url, max: 10, application_name: 'shop' })
  pool.on('error', () => undefined) // an idle connection that dies is replaced at the next use
  const repository = release === 1 ? openRelease1(pool) : await openRelease2(pool)
  let isEnding = false
  const server = createServer((request, reply) => {
    void answer(repository, pool, request)
      .then(
        (body): [number, object] => [200, body],
        (error: unknown): [number, object] => [500, { problem: String(error) }],
      )
      .then(([status, body]) => {
        // What is under way at the end is the last on its connection.
        if (isEnding) reply.setHeader('connection', 'close')
        reply.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
      })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const message: ServiceMessage = { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
  process.send?.(message)
  process.once('SIGTERM', () => {
    isEnding = true
    server.close(
      () =>
        void repository
          .close()
          .then(() => pool.end())
          .then(() => process.exit(0)),
    )
  })
  process.once('disconnect', () => process.exit(1))
}

await main()
