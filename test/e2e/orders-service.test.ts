import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { setTimeout as delay } from 'node:timers/promises'
import autocannon from 'autocannon'
import { expect, test, type TestContext } from 'vitest'
import orders from '../../examples/orders-service/migration.config.ts'
import { startBalancer, type Balancer } from '../support/balancer.ts'
import { startService } from '../support/migration.ts'
import { withDatabase } from '../support/postgres.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const rows = 2_000
const writers = 4
const ordersPerWriter = 10
const mostKills = 4
const betweenKillsMs = 2_000
/** Of the load generator: enough that every moment of a phase has requests under way, and little enough for two cores. */
const requestsPerSec = 150

interface Instance {
  readonly url: string
  readonly child: ChildProcess
}

class Fleet {
  readonly #databaseUrl: string
  readonly #balancer: Balancer
  #instances: Instance[] = []
  kills = 0

  constructor(t: TestContext, databaseUrl: string, balancer: Balancer) {
    this.#databaseUrl = databaseUrl
    this.#balancer = balancer
    t.onTestFinished(() => this.#instances.forEach(({ child }) => child.kill('SIGKILL')))
  }

  async start(release: 1 | 2): Promise<Instance> {
    const loader = pathToFileURL(join(root, 'node_modules/tsx/dist/loader.mjs')).href
    const child = spawn(process.execPath, ['--import', loader, 'examples/orders-service/server.ts'], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'inherit'],
      env: {
        ...process.env,
        TSX_TSCONFIG_PATH: join(root, 'tsconfig.json'),
        DATABASE_URL: this.#databaseUrl,
        RELEASE: String(release),
      },
    })
    const [line] = (await once(child.stdout, 'data')) as [Buffer]
    const instance = { url: line.toString().trim(), child }
    this.#instances.push(instance)
    this.#balancer.add(instance.url)
    return instance
  }

  /** One after the other: the new one is there before the old one goes. */
  async roll(release: 1 | 2): Promise<void> {
    for (const old of [...this.#instances]) {
      await this.start(release)
      this.#forget(old)
      const ended = once(old.child, 'exit')
      old.child.kill('SIGTERM')
      await ended
    }
  }

  /** Whatever it is doing: between both writes, too. */
  async kill(): Promise<void> {
    const victim = this.#instances[this.kills % this.#instances.length]
    if (!victim) return
    this.kills += 1
    victim.child.kill('SIGKILL')
    await once(victim.child, 'exit')
    this.#forget(victim)
    await this.start(2)
  }

  #forget(instance: Instance): void {
    this.#instances = this.#instances.filter((other) => other !== instance)
    this.#balancer.remove(instance.url)
  }
}

test('a service moves to its new table under load, while it is deployed and its instances are killed', async (t) => {
  const database = await withDatabase(t, '18')
  await database.pool.query(
    'CREATE TABLE orders (id bigint PRIMARY KEY, customer text NOT NULL, total_cents int NOT NULL, state text NOT NULL)',
  )
  await database.pool.query(
    `INSERT INTO orders SELECT i, 'c' || i % 100, i, 'open' FROM generate_series(1, $1) i`,
    [rows],
  )
  const { client } = await startService(t, database)
  const balancer = await startBalancer()
  t.onTestFinished(() => balancer.close())
  const fleet = new Fleet(t, database.url, balancer)
  await Promise.all([fleet.start(1), fleet.start(1)])

  const anyOrder = (request: autocannon.Request): autocannon.Request => ({
    ...request,
    path: `/orders/${1 + Math.floor(Math.random() * rows)}`,
  })
  const options: autocannon.Options = {
    url: balancer.url,
    connections: 6,
    duration: 600,
    overallRate: requestsPerSec,
    requests: [
      { method: 'GET', path: '/', setupRequest: anyOrder },
      { method: 'GET', path: '/', setupRequest: anyOrder },
      {
        method: 'PUT',
        path: '/',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ customer: 'load', totalCents: 100, state: 'paid' }),
        setupRequest: anyOrder,
      },
    ],
  }
  let stopLoad = (): void => undefined
  const measured = new Promise<autocannon.Result>((resolve, reject) => {
    const load = autocannon(options, (error: Error | null, result) =>
      error ? reject(error) : resolve(result),
    )
    stopLoad = () => load.stop()
  })
  t.onTestFinished(() => stopLoad())

  /** What the service has acknowledged last, by order. */
  const written = new Map<number, number>()
  const refused: string[] = []
  let isOver = false
  const write = async (writer: number): Promise<void> => {
    for (let n = 1; !isOver; n++) {
      const id = rows + 1 + writer * ordersPerWriter + (n % ordersPerWriter)
      const url = `${balancer.url}/orders/${id}`
      const body = JSON.stringify({ customer: `w${writer}`, totalCents: n, state: 'open' })
      const put = await fetch(url, { method: 'PUT', headers: { 'content-type': 'application/json' }, body })
      if (put.ok) written.set(id, n)
      else refused.push(`PUT ${put.status} ${await put.text()}`)
      const got = await fetch(url)
      if (!got.ok) refused.push(`GET ${got.status} ${await got.text()}`)
      await delay(20)
    }
  }
  const writing = Array.from({ length: writers }, (_, i) => write(i))

  await fleet.roll(2)
  await fleet.roll(1) // it was not the last word
  await fleet.roll(2)
  const handle = await client.start({
    ...orders,
    backfill: { profile: 'fast' },
    cutover: { ramp: [10, 50, 100].map((percent) => ({ percent, hold: '2s' })) },
    retire: { soak: '1s' },
    contract: { observe: '2s', soak: '100ms' },
    safety: { requireApproval: false },
  })
  const result = handle.result()
  while (fleet.kills < mostKills) {
    await Promise.race([delay(betweenKillsMs), result])
    const { detail } = await handle.status()
    if (detail?.outcome !== 'running' || detail.primary === 'new') break
    if (detail.finishedPhases.length > 0) await fleet.kill()
  }
  const { outcome, status } = await result
  isOver = true
  await Promise.all(writing)
  stopLoad()
  const { requests, errors, timeouts, non2xx, latency } = await measured
  const found = await database.pool.query<{ id: string; cents: number }>(
    `SELECT id, (total * 100)::int AS cents FROM orders_v2 WHERE id > $1`,
    [rows],
  )
  const lost = found.rows.filter(({ id, cents }) => written.get(Number(id)) !== cents).length
  const writes = [...written.values()].reduce((sum, n) => sum + Math.ceil(n / ordersPerWriter), 0)
  process.stderr.write(
    `${JSON.stringify({ outcome, requests: requests.total, writes, kills: fleet.kills, retried: balancer.retried, p99Ms: latency.p99, errors, timeouts, non2xx, lost, phases: status.finishedPhases })}\n`,
  )
  expect(outcome).toBe('done')
  expect({ errors, timeouts, non2xx, refused, lost }).toEqual({
    errors: 0,
    timeouts: 0,
    non2xx: 0,
    refused: [],
    lost: 0,
  })
  expect(found.rows).toHaveLength(written.size)
  expect(fleet.kills).toBeGreaterThan(0)
  expect(requests.total).toBeGreaterThan(500)
  expect((await database.pool.query(`SELECT to_regclass('orders') AS old`)).rows).toEqual([{ old: null }])
})
