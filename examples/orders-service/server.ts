import fastify from 'fastify'
import pg from 'pg'
import { openOldOrders, openOrders, type Order } from './orders.ts'

const pool = new pg.Pool({ connectionString: process.env['DATABASE_URL'], max: 8 })
pool.on('error', () => undefined) // an idle connection that dies is replaced at the next use
const orders = process.env['RELEASE'] === '1' ? openOldOrders(pool) : await openOrders(pool)

const server = fastify({ forceCloseConnections: 'idle' })

server.get<{ Params: { id: string } }>('/orders/:id', async ({ params }, reply) => {
  const order = await orders.find(Number(params.id))
  return order ?? reply.code(404).send({ problem: 'There is no such order.' })
})

server.put<{ Params: { id: string }; Body: Omit<Order, 'id'> }>('/orders/:id', async ({ params, body }) => {
  const order = { ...body, id: Number(params.id) }
  await orders.save(order)
  return order
})

// What is under way at the end is the last on its connection: one that is kept alive would hold up the end for a minute.
let isEnding = false
server.addHook('onSend', async (_, reply) => {
  if (isEnding) reply.header('connection', 'close')
})

const address = await server.listen({ port: Number(process.env['PORT'] ?? 0), host: '127.0.0.1' })
console.log(address)

process.once('SIGTERM', () => {
  isEnding = true
  void server
    .close() // requests that are under way are answered first
    .then(() => orders.close())
    .then(() => pool.end())
})
