import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { setTimeout as delay } from 'node:timers/promises'
import autocannon from 'autocannon'
import { expect, test, type TestContext } from 'vitest'
import orders from '../../examples/orders-service/migration.config.ts'
import { startBalancer, type Balancer } from '../../src/demo/balancer.ts'
import { startService } from '../support/migration.ts'
import { approve, isLong, untilDetail, untilGate } from '../support/migrations.ts'
import { withDatabase, type TestDatabase } from '../support/postgres.ts'
import { eventually } from '../support/wait.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const rows = 2_000
const writers = isLong ? 4 : 2
const ordersPerWriter = 10
/** At the gate of cutover, in the ramp, and while the old side is kept in step: so many instances are killed at each. */
const killsEach = isLong ? 5 : 1
/** Of the load generator: enough that every moment of a phase has requests under way, and little enough for two cores. */
const requestsPerSec = isLong ? 150 : 60

type Release = 1 | 2

interface Instance {
  readonly url: string
  readonly child: ChildProcess
  /** What it has written to stdout. */
  said: string
}

/** Its orders are the ones that an instance stands still for, between both writes. */
const doomed = 'doomed'

class Fleet {
  readonly #databaseUrl: string
  readonly #balancer: Balancer
  #instances: Instance[] = []

  constructor(t: TestContext, databaseUrl: string, balancer: Balancer) {
    this.#databaseUrl = databaseUrl
    this.#balancer = balancer
    t.onTestFinished(() => this.#instances.forEach(({ child }) => child.kill('SIGKILL')))
  }

  async start(release: Release): Promise<Instance> {
    const loader = pathToFileURL(join(root, 'node_modules/tsx/dist/loader.mjs')).href
    const child = spawn(process.execPath, ['--import', loader, 'examples/orders-service/server.ts'], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'inherit'],
      env: {
        ...process.env,
        TSX_TSCONFIG_PATH: join(root, 'tsconfig.json'),
        DATABASE_URL: this.#databaseUrl,
        RELEASE: String(release),
        STAND_STILL_BETWEEN_WRITES_FOR: doomed,
      },
    })
    const [line] = (await once(child.stdout, 'data')) as [Buffer]
    const instance = { url: line.toString().trim(), child, said: '' }
    child.stdout.on('data', (text: Buffer) => (instance.said += text.toString()))
    this.#instances.push(instance)
    this.#balancer.add(instance.url)
    return instance
  }

  /** One after the other: the new one is there before the old one goes. */
  async roll(release: Release, { most = 2 } = {}): Promise<void> {
    for (const old of this.#instances.slice(0, most)) {
      await this.start(release)
      this.#forget(old)
      const ended = once(old.child, 'exit')
      old.child.kill('SIGTERM')
      await ended
    }
  }

  get oldest(): Instance {
    const [oldest] = this.#instances
    if (!oldest) throw new Error('no instance is running')
    return oldest
  }

  /** With whatever it is doing. */
  async kill(victim: Instance): Promise<void> {
    const ended = once(victim.child, 'exit')
    victim.child.kill('SIGKILL')
    await ended
    this.#forget(victim)
  }

  #forget(instance: Instance): void {
    this.#instances = this.#instances.filter((other) => other !== instance)
    this.#balancer.remove(instance.url)
  }
}

const put = (url: string, id: number, customer: string, totalCents: number): Promise<Response> =>
  fetch(`${url}/orders/${id}`, {
    method: 'PUT',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ customer, totalCents, state: 'open' }),
  })

const other = { old: 'new', new: 'old' } as const

/** Kills an instance that has committed one side of an order, and told the client, and has not begun to write the other one. */
async function killBetweenWrites(
  fleet: Fleet,
  { pool }: TestDatabase,
  id: number,
  primary: 'old' | 'new',
): Promise<number> {
  const sides = async (): Promise<{ old: number | null; new: number | null }> => {
    const { rows } = await pool.query<{ old: number | null; new: number | null }>(
      `SELECT (SELECT total_cents FROM orders WHERE id = $1) AS old, (SELECT (total * 100)::int FROM orders_v2 WHERE id = $1) AS new`,
      [id],
    )
    return rows[0] ?? { old: null, new: null }
  }
  const untilBothSay = (cents: number): Promise<unknown> =>
    eventually(async () => Object.values(await sides()).every((found) => found === cents), {
      timeoutMs: 30_000,
      what: `order ${id} on both sides`,
    })
  const victim = fleet.oldest
  const isStandingStill = (): boolean => victim.said.includes(`writes of order ${id}\n`)
  // A busy instance may leave a copy to the appliers: then it does not come by the place, and the next order may.
  let cents = 0
  for (let n = 1; !isStandingStill() && n < 10; n++) {
    expect((await put(victim.url, id, 'spared', (cents = 2 * n))).status).toBe(200)
    await untilBothSay(cents)
    expect((await put(victim.url, id, doomed, (cents = 2 * n + 1))).status).toBe(200)
    await eventually(isStandingStill, { timeoutMs: 2_000, what: 'an instance between both writes' }).catch(
      () => undefined,
    )
  }
  expect(isStandingStill()).toBe(true)
  expect(await sides()).toEqual({ [primary]: cents, [other[primary]]: cents - 1 })
  await fleet.kill(victim)
  await untilBothSay(cents)
  await fleet.start(2)
  return cents
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
      const saved = await put(balancer.url, id, `w${writer}`, n)
      if (saved.ok) written.set(id, n)
      else refused.push(`PUT ${saved.status} ${await saved.text()}`)
      const got = await fetch(`${balancer.url}/orders/${id}`)
      if (!got.ok) refused.push(`GET ${got.status} ${await got.text()}`)
      await delay(20)
    }
  }
  const writing = Promise.all(Array.from({ length: writers }, (_, i) => write(i)))
  t.onTestFinished(async () => {
    isOver = true
    await writing
  })

  await fleet.roll(2, { most: isLong ? 2 : 1 })
  await fleet.roll(1, { most: isLong ? 2 : 1 }) // it was not the last word
  await fleet.roll(2)
  const handle = await client.start({
    ...orders,
    backfill: { profile: 'fast' },
    cutover: { ramp: [10, 100].map((percent) => ({ percent, hold: '1s' })) },
    retire: { soak: isLong ? '60s' : '5s' },
    contract: { observe: '1s', soak: '100ms' },
  })
  let kills = 0
  const killSome = async (primary: 'old' | 'new'): Promise<void> => {
    for (let n = 0; n < killsEach; n++) {
      const id = rows + 1_000 + (kills += 1)
      written.set(id, await killBetweenWrites(fleet, database, id, primary))
    }
  }
  await approve(handle, 'expand')
  await untilGate(handle, 'cutover')
  await killSome('old')
  await approve(handle, 'cutover')
  await untilDetail(handle, 'the ramp', ({ ramp }) => ramp.reached.includes(10))
  await killSome('old')
  await approve(handle, 'retire')
  await untilDetail(handle, 'the soak', ({ primary, hold }) => primary === 'new' && hold !== undefined)
  await killSome('new')
  await approve(handle, 'contract')
  const { outcome, status } = await handle.result()
  isOver = true
  await writing
  stopLoad()
  const { requests, errors, timeouts, non2xx, latency } = await measured
  const found = await database.pool.query<{ id: string; cents: number }>(
    `SELECT id, (total * 100)::int AS cents FROM orders_v2 WHERE id > $1`,
    [rows],
  )
  const lost = found.rows.filter(({ id, cents }) => written.get(Number(id)) !== cents).length
  process.stderr.write(
    `${JSON.stringify({ outcome, requests: requests.total, written: written.size, kills, retried: balancer.retried, p99Ms: latency.p99, errors, timeouts, non2xx, lost, phases: status.finishedPhases })}\n`,
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
  expect(kills).toBe(3 * killsEach)
  expect(requests.total).toBeGreaterThan(500)
  expect((await database.pool.query(`SELECT to_regclass('orders') AS old`)).rows).toEqual([{ old: null }])
})
