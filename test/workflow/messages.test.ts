import { describe, expect, test } from 'vitest'
import { token } from '../support/fake-activities.ts'
import { failedTasks } from '../support/failed-tasks.ts'
import { workflowEnvironment, type Life, type MessageName } from '../support/workflow-environment.ts'

const env = workflowEnvironment()
const { start } = env

const names: readonly MessageName[] = ['approve', 'abort', 'pause', 'resume', 'configure']

const huge = 'x'.repeat(1_000_000)

const malformed: readonly (readonly [string, unknown])[] = [
  ['null', null],
  ['true', true],
  ['a number', 42],
  ['text', 'approve expand'],
  ['an empty list', []],
  ['a list', [{ gate: 'expand', by: 'Ann', token }]],
  ['an empty object', {}],
  ['by of a wrong type', { by: 7, gate: 'expand', token, batchSize: 5 }],
  ['by without a name', { by: '   ', gate: 'expand', token, batchSize: 5 }],
  ['no by', { gate: 'expand', token }],
  ['an unknown field', { by: 'Ann', surprise: 1 }],
  ['huge text', huge],
  ['a huge name', { by: huge, gate: 'expand', token, batchSize: 5 }],
  ['a huge field', { by: 'Ann', [huge]: 1 }],
  ['a field of the prototype', JSON.parse('{"by":"Ann","__proto__":{"x":1},"constructor":1}')],
  ['nested nonsense', { by: { toString: null }, reason: [[[]]] }],
]

const wrongBy: Readonly<Record<string, readonly unknown[]>> = {
  approve: [
    { gate: 1, by: 'Ann' },
    { gate: 'expand', by: 'Ann', token: 12 },
    { gate: 'expand', by: 'Ann', token, note: {} },
  ],
  abort: [
    { by: 'Ann', cleanUp: 'yes' },
    { by: 'Ann', reason: 1 },
  ],
  pause: [{ by: 'Ann', reason: {} }],
  resume: [{ by: 'Ann', reason: 0 }],
  configure: [
    { by: 'Ann' },
    { by: 'Ann', batchSize: 0 },
    { by: 'Ann', batchSize: 1.5 },
    { by: 'Ann', batchSize: '5' },
    { by: 'Ann', batchSize: null },
    { by: 'Ann', maxConcurrency: 1e9 },
    { by: 'Ann', rateLimitMs: -1 },
    { by: 'Ann', profile: 'furious' },
    { by: 'Ann', requireApproval: false },
  ],
}

/** That it still answers, moves, and was told nothing that it believes. */
async function expectUnmoved(life: Life): Promise<void> {
  const status = await life.status()
  expect(status).toMatchObject({ phase: 'expand', outcome: 'running', settings: {} })
  expect(status.abort).toBeUndefined()
  expect(status.paused).toBeUndefined()
  expect(status.gate?.approval).toBeUndefined()
  expect(failedTasks(await life.handle.fetchHistory())).toEqual([])
}

describe.each(names)('%s', (name) => {
  test('refuses every wrong payload, records it, and the workflow goes on', async () => {
    const life = await start()
    await life.atGate('expand')
    const payloads = [...malformed.map(([, payload]) => payload), ...(wrongBy[name] ?? [])]
    for (const payload of payloads) await life.signal(name, payload)
    await life.signal(name) // no argument at all
    await life.signal(name, { by: 5 }, 'a second argument')
    await expectUnmoved(life)
    const refusals = (await life.audit()).filter(({ what }) => what.startsWith(`refused ${name}: `))
    expect(refusals).toHaveLength(payloads.length + 2)
    for (const { what } of refusals) expect(what.length).toBeLessThan(700)
    expect((await life.details()).length).toBeLessThan(6000)

    for (const payload of payloads)
      await expect(life.update(name, payload), JSON.stringify(payload)?.slice(0, 80)).rejects.toMatchObject({
        name: 'WorkflowUpdateFailedError',
      })
    await expectUnmoved(life)
    await life.approve('expand')
    await life.atGate('cutover')
  })
})

test('an unknown signal is refused, and is not kept for a later version', async () => {
  const life = await start()
  await life.atGate('expand')
  await life.signal('aprove', { gate: 'expand', by: 'Ann', token })
  await life.signal('x'.repeat(900), null)
  expect(await life.story()).toContain('refused aprove: there is no such signal')
  await expectUnmoved(life)
})

test('payloads that cannot even be decoded do not block it', async () => {
  const life = await start()
  await life.atGate('expand')
  const { workflowService } = env.environment.connection
  const text = (value: string): Uint8Array => new TextEncoder().encode(value)
  const raw: readonly (readonly [string, Uint8Array])[] = [
    ['json/protobuf', text('{"gate":"expand","by":"Ann"}')], // JSON, without its token
    ['json/protobuf', text('gate')],
    ['json/plain', text('{"gate":')],
    ['binary/plain', Uint8Array.of(0, 255, 3)],
    ['binary/encrypted', Uint8Array.of(1, 2, 3)],
    ['binary/null', Uint8Array.of()],
    ['no/such-encoding', text('hm')],
  ]
  for (const [encoding, data] of raw)
    for (const signalName of ['approve', 'unknown'])
      await workflowService.signalWorkflowExecution({
        namespace: 'default',
        workflowExecution: { workflowId: life.handle.workflowId },
        signalName,
        input: { payloads: [{ metadata: { encoding: text(encoding) }, data }] },
      })
  await expectUnmoved(life)
  expect((await life.audit()).filter(({ what }) => what.startsWith('refused '))).toHaveLength(2 * raw.length)
  expect(await life.story()).toContain('refused approve: the token does not fit')
  expect(await life.story()).toContain('refused approve: the payload must be one JSON object')
  await life.approve('expand')
  await life.atGate('cutover')
})

test.each([
  ['null', null],
  ['nothing of a migration', { migration: 'people' }],
  ['no fingerprint', { migration: {} }],
  [
    'a definition without its defaults',
    { migration: { name: 'a', database: 'b', mappings: [] }, fingerprint: 'f' },
  ],
])('an input that is no migration ends at once: %s', async (_, input) => {
  const handle = await env.environment.client.workflow.start('migration', {
    workflowId: `crossfade/wrong-${Math.random()}`,
    taskQueue: env.taskQueue,
    args: [input],
  })
  await expect(handle.result()).rejects.toMatchObject({ cause: { type: 'DEFINITION.INVALID' } })
})
