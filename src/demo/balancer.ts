import { Agent, createServer, request, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'

/** Shares requests out among instances; one that an instance did not answer is asked of the next, as balancers do with what may be repeated. */
export interface Balancer {
  readonly url: string
  readonly retried: number
  add(url: string): void
  remove(url: string): void
  close(): Promise<void>
}

const mostTries = 50
const restMs = 20

export async function startBalancer(): Promise<Balancer> {
  const agent = new Agent({ keepAlive: true, maxSockets: 64 })
  let instances: string[] = []
  let turn = 0
  let retried = 0
  const forward = (url: string, { method, url: path, headers }: IncomingMessage, body: Buffer) =>
    new Promise<{ readonly status: number; readonly body: Buffer }>((resolve, reject) => {
      const out = request(new URL(path ?? '/', url), { method, headers, agent }, (answer) => {
        const chunks: Buffer[] = []
        answer.on('data', (chunk: Buffer) => chunks.push(chunk))
        answer.on('end', () => resolve({ status: answer.statusCode ?? 502, body: Buffer.concat(chunks) }))
        answer.on('error', reject)
      })
      out.on('error', reject)
      out.end(body)
    })
  const server = createServer((asked, reply) => {
    const chunks: Buffer[] = []
    asked.on('data', (chunk: Buffer) => chunks.push(chunk))
    asked.on(
      'end',
      () =>
        void answer(asked, Buffer.concat(chunks)).then(([status, body]) => {
          reply.writeHead(status, { 'content-type': 'application/json' }).end(body)
        }),
    )
  })
  async function answer(asked: IncomingMessage, body: Buffer): Promise<[number, Buffer]> {
    for (let tried = 1; tried <= mostTries; tried++) {
      const instance = instances[turn++ % Math.max(1, instances.length)]
      try {
        if (instance !== undefined) {
          const got = await forward(instance, asked, body)
          if (got.status !== 503) return [got.status, got.body] // one that is closing says so
        }
      } catch {
        // the next one
      }
      retried += 1
      await delay(restMs)
    }
    return [502, Buffer.alloc(0)]
  }
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    get retried() {
      return retried
    },
    add: (url) => void instances.push(url),
    remove: (url) => void (instances = instances.filter((other) => other !== url)),
    async close() {
      agent.destroy()
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
