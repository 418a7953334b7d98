import { describe, expect, test } from 'vitest'
import { isCrossfadeError, type CrossfadeError } from '../errors/index.ts'
import { canonicalJson } from './canonical-json.ts'
import { defineMigration, fingerprint, forwardLinks, resolveMigration, reverseLinks } from './index.ts'

const mapping = {
  source: 'users',
  target: 'people',
  key: { id: 'id' },
  columns: { full_name: 'name' },
  reverse: { columns: { name: 'full_name' } },
}
const smallest = { name: 'people', kind: 'table', mappings: [mapping] }

function refusal(definition: unknown): CrossfadeError {
  try {
    resolveMigration(definition)
  } catch (error) {
    if (isCrossfadeError(error)) return error
    throw error
  }
  throw new Error('It was accepted.')
}

/** `path: problem` of every finding. */
const findings = (definition: unknown): string[] =>
  (refusal(definition).details['findings'] as { path: string; problem: string }[]).map(
    ({ path, problem }) => `${path}: ${problem}`,
  )

describe('a definition', () => {
  test('has the defaults that are a contract', () => {
    expect(resolveMigration(smallest)).toEqual({
      name: 'people',
      kind: 'table',
      database: 'default',
      mappings: [
        {
          source: { schema: 'public', name: 'users' },
          target: { schema: 'public', name: 'people' },
          key: { id: 'id' },
          columns: { full_name: 'name' },
          reverse: { columns: { name: 'full_name' } },
        },
      ],
      sync: { method: 'trigger', maxWaitMs: 10, inlineRows: 200 },
      expand: { tables: [], sql: [], indexes: 'after-backfill' },
      cutover: {
        mode: 'flags',
        ramp: [
          { percent: 1, hold: '10m' },
          { percent: 10, hold: '30m' },
          { percent: 50, hold: '1h' },
          { percent: 100, hold: '1h' },
        ],
        queries: [],
      },
      retire: { soak: '7d' },
      contract: { observe: '10m', soak: '1d', drop: true, sql: [] },
      flags: {
        writeEnabled: 'people.new_schema_write',
        readEnabled: 'people.new_schema_read',
        backfillActive: 'people.backfill_active',
      },
      backfill: {
        batchSize: 500,
        maxBatchSize: 20_000,
        maxConcurrency: 10,
        rateLimitMs: 100,
        maxReplicationLagSec: 5,
        retryAttempts: 3,
        retryBackoffBaseMs: 1000,
        targetChunkMs: 50,
        profile: 'gentle',
      },
      metrics: {
        prefix: 'db.migration.people',
        enabled: true,
        alertThresholds: { errorRate: 0.5, lagThreshold: 10 },
      },
      safety: { maxRuntimeMinutes: 480, dryRunMode: false, requireApproval: true },
      verify: { minParity: 0.9999, confidence: 0.95, alertMismatchRatio: 0.0001 },
    })
    expect(resolveMigration({ ...smallest, backfill: { profile: 'fast' } }).backfill).toMatchObject({
      rateLimitMs: 0,
      targetChunkMs: 150,
    })
    expect(
      resolveMigration({ ...smallest, backfill: { profile: 'fast', rateLimitMs: 7 } }).backfill,
    ).toMatchObject({ rateLimitMs: 7 })
  })

  test('leaves names that begin as ours do to us', () => {
    const [mapping] = smallest.mappings
    expect(() =>
      resolveMigration({ ...smallest, mappings: [{ ...mapping, columns: { _crossfade_k1: '1' } }] } as never),
    ).toThrow(/begins with _crossfade_/)
  })

  test('is the same again after its own defaults were written down', () => {
    const resolved = resolveMigration(smallest)
    expect(resolveMigration(JSON.parse(JSON.stringify(resolved)))).toEqual(resolved)
  })

  test('keeps its fingerprint when its keys are in another order or a default is written out, and no other time', () => {
    const one = fingerprint(resolveMigration(smallest))
    const { mappings, name, kind } = smallest
    expect(fingerprint(resolveMigration({ verify: { confidence: 0.95 }, mappings, kind, name }))).toBe(one)
    expect(fingerprint(resolveMigration({ ...smallest, retire: { soak: '8d' } }))).not.toBe(one)
    // The order of the key's columns is the order of the index.
    const two = { ...mapping, key: { a: 'a', b: 'b' } }
    const turned = { ...mapping, key: { b: 'b', a: 'a' } }
    expect(fingerprint(resolveMigration({ ...smallest, mappings: [two] }))).not.toBe(
      fingerprint(resolveMigration({ ...smallest, mappings: [turned] })),
    )
  })

  test('is returned as it was written', () => {
    expect(defineMigration(smallest as never)).toBe(smallest)
  })

  test.each<[string, unknown, string]>([
    ['an unknown setting', { ...smallest, backfil: {} }, 'backfil'],
    ['an unknown setting deep inside', { ...smallest, backfill: { batchsize: 5 } }, 'batchsize'],
    ['no mapping', { ...smallest, mappings: [] }, 'mappings: '],
    ['a name with a capital', { ...smallest, name: 'People' }, 'name: must be 1 to 40 of'],
    [
      'a name that is too long for a column',
      { ...smallest, mappings: [{ ...mapping, columns: { ['ä'.repeat(32)]: true } }] },
      'mappings[0].columns',
    ],
    [
      'a table name that is too long',
      { ...smallest, mappings: [{ ...mapping, target: 'x'.repeat(64) }] },
      'mappings[0].target',
    ],
    [
      'an empty key',
      { ...smallest, mappings: [{ ...mapping, key: {} }] },
      'mappings[0].key: names no column',
    ],
    [
      'no word about the way back',
      { ...smallest, mappings: [{ ...mapping, reverse: undefined }] },
      'mappings[0].reverse',
    ],
    [
      'a ramp that does not end at 100',
      { ...smallest, cutover: { ramp: [{ percent: 50, hold: '1m' }] } },
      'cutover.ramp: must end at 100 percent',
    ],
    [
      'a ramp that falls',
      {
        ...smallest,
        cutover: {
          ramp: [
            { percent: 50, hold: '1m' },
            { percent: 10, hold: '1m' },
            { percent: 100, hold: '1m' },
          ],
        },
      },
      'cutover.ramp: must rise from step to step',
    ],
    ['a duration that is none', { ...smallest, retire: { soak: '7 days' } }, 'retire.soak'],
    ['parity of 1, which no sample proves', { ...smallest, verify: { minParity: 1 } }, 'verify.minParity'],
    [
      'a first chunk larger than the largest',
      { ...smallest, backfill: { batchSize: 500, maxBatchSize: 100 } },
      'backfill.batchSize: is larger than maxBatchSize',
    ],
    [
      'the source as its own target',
      { ...smallest, mappings: [{ ...mapping, target: 'users' }] },
      'mappings[0].target: is the source itself',
    ],
    [
      'a key column that is filled twice',
      { ...smallest, mappings: [{ ...mapping, columns: { id: 'id' } }] },
      'mappings[0].columns.id: is filled by the key already; leave it out',
    ],
    [
      'two sources of one target',
      { ...smallest, mappings: [mapping, { ...mapping, source: 'others' }] },
      'mappings[1].target: is the target of mappings[0] too',
    ],
    [
      'a table that nothing says how to read',
      { ...smallest, mappings: [{ ...mapping, dependsOn: [{ table: 'teams', on: {} }] }] },
      'mappings[0].dependsOn[0].on: names no column',
    ],
    [
      'a target that is read for a target',
      { ...smallest, mappings: [{ ...mapping, dependsOn: [{ table: 'people', on: { id: 'id' } }] }] },
      'mappings[0].dependsOn[0].table: is a target of this migration',
    ],
    [
      'a swap of a table that is read by its name',
      {
        ...smallest,
        cutover: { mode: 'swap' },
        mappings: [{ ...mapping, dependsOn: [{ table: 'users', on: { id: 'boss' } }] }],
      },
      'mappings[0].dependsOn[0].table: would mean another table after the exchange of names',
    ],
    [
      'a chain',
      { ...smallest, mappings: [mapping, { ...mapping, source: 'people', target: 'persons' }] },
      'mappings[0].target: is a source of another mapping',
    ],
    [
      'a swap of a split',
      { ...smallest, cutover: { mode: 'swap' }, mappings: [mapping, { ...mapping, target: 'persons' }] },
      'cutover.mode: swap exchanges names one for one',
    ],
    [
      'triggers of a table that keeps its name',
      { ...smallest, cutover: { triggers: { audit: 'carry' } } },
      'cutover.triggers: is for kind "table" with cutover.mode "swap"',
    ],
    [
      'a swap that hides rows',
      { ...smallest, cutover: { mode: 'swap' }, mappings: [{ ...mapping, where: 'active' }] },
      'cutover.mode: swap would hide the rows',
    ],
    [
      'a table that nothing fills',
      { ...smallest, expand: { tables: [{ table: 'nobody', columns: { id: 'int' }, primaryKey: ['id'] }] } },
      'expand.tables[0].table: is the target of no mapping',
    ],
    [
      'one step name twice',
      {
        ...smallest,
        expand: {
          sql: [
            { name: 'a', up: 'SELECT 1' },
            { name: 'a', up: 'SELECT 2' },
          ],
        },
      },
      'expand.sql: uses one step name twice',
    ],
  ])('is refused with %s, by path', (_, definition, expected) => {
    const error = refusal(definition)
    expect(error).toMatchObject({ kind: 'input', code: 'DEFINITION.INVALID' })
    expect(findings(definition).join('\n')).toContain(expected)
    expect(error.message).toContain(expected.split(':')[0])
    expect(error.mend).toMatch(/Correct/)
  })

  test('names every finding at once', () => {
    expect(
      findings({ ...smallest, name: 'X', retire: { soak: 'x' }, backfill: { batchSize: 0 } }),
    ).toHaveLength(3)
  })

  test('says which other tables a link depends on, and not those that nobody changes', () => {
    const dependsOn = [
      { table: 'teams', on: { id: 'team_id' } },
      { table: 'config.countries', constant: true },
    ]
    const [link] = forwardLinks(resolveMigration({ ...smallest, mappings: [{ ...mapping, dependsOn }] }))
    expect(link?.dependsOn).toEqual([
      { table: { schema: 'public', name: 'teams' }, on: [{ column: 'id', driving: 'team_id' }] },
    ])
  })

  test('makes one link a mapping, and one link a source on the way back', () => {
    const migration = resolveMigration({
      ...smallest,
      mappings: [
        { ...mapping, where: 'active' },
        {
          ...mapping,
          target: 'crm.addresses',
          key: { id: 'person' },
          columns: { city: true },
          reverse: { columns: { city: true } },
        },
      ],
    })
    expect(forwardLinks(migration).map((link) => link.id)).toEqual([
      'public.users → public.people',
      'public.users → crm.addresses',
    ])
    expect(reverseLinks(migration)).toEqual([
      {
        id: 'public.people + crm.addresses → public.users',
        direction: 'reverse',
        parts: [
          {
            table: { schema: 'public', name: 'people' },
            key: ['id'],
            columns: [{ to: 'name', expression: 'full_name' }],
          },
          {
            table: { schema: 'crm', name: 'addresses' },
            key: ['person'],
            columns: [{ to: 'city', column: 'city' }],
          },
        ],
        target: { table: { schema: 'public', name: 'users' }, key: ['id'], scope: 'active' },
      },
    ])
    expect(
      reverseLinks(resolveMigration({ ...smallest, mappings: [{ ...mapping, reverse: false }] })),
    ).toEqual([])
  })
})

describe('a definition of kind column', () => {
  const mapping = {
    source: 'users',
    key: { id: 'id' },
    columns: { first: 'name', last: 'name', point: 'ROW(lat, lon)', note: 'email' },
    reverse: { columns: { name: 'first', lat: 'point', lon: 'point' } },
  }
  const column = (name: string, replaces?: string | string[]): object => ({
    table: 'users',
    name,
    type: 'text',
    ...(replaces === undefined ? {} : { replaces }),
  })
  const columns = [column('first', 'name'), column('last', ['name']), column('point', ['lat', 'lon'])]
  const smallest = { name: 'people', kind: 'column', mappings: [mapping], expand: { columns } }

  test('has its source as its target, and pairs of columns that follow each other', () => {
    const migration = resolveMigration(smallest)
    expect(migration.mappings[0]?.target).toEqual(migration.mappings[0]?.source)
    const pairs = [
      { old: ['name'], new: ['first', 'last'] },
      { old: ['lat', 'lon'], new: ['point'] },
      { old: [], new: ['note'] },
    ]
    expect(forwardLinks(migration).map((link) => link.inRow)).toEqual([
      expect.arrayContaining(pairs) as unknown,
    ])
    expect(reverseLinks(migration)[0]).toMatchObject({
      target: { key: ['id'] },
      inRow: expect.arrayContaining(pairs) as unknown,
    })
  })

  test('joins pairs through a column that replaces several', () => {
    const joined = { ...smallest, expand: { columns: [...columns, column('note', ['name', 'lat'])] } }
    expect(forwardLinks(resolveMigration(joined))[0]?.inRow).toEqual([
      { old: ['name', 'lat', 'lon'], new: ['first', 'last', 'point', 'note'] },
    ])
  })

  const withMapping = (change: object, more: object = {}): object => ({
    ...smallest,
    ...more,
    mappings: [{ ...mapping, ...change }],
  })
  test.each([
    ['a swap', { ...smallest, cutover: { mode: 'swap' } }, 'cutover.mode: swap exchanges names one for one'],
    ['another target', withMapping({ target: 'people' }), 'mappings[0].target: is another table'],
    ['a filter', withMapping({ where: 'true' }), 'mappings[0].where: is for kind "table"'],
    ['no column', withMapping({ columns: {} }), 'mappings[0].columns: names no column'],
    ['a column of the same name', withMapping({ columns: { a: true } }), 'mappings[0].columns.a: true means'],
    [
      'a key that is replaced',
      withMapping({ key: { id: 'id2' } }),
      'mappings[0].key.id: names another column',
    ],
    ['an empty way back', withMapping({ reverse: { columns: {} } }), 'reverse.columns: names no column'],
    [
      'true on the way back',
      withMapping({ reverse: { columns: { name: true } } }),
      'reverse.columns.name: true',
    ],
    [
      'a way back to itself',
      withMapping({ reverse: { columns: { first: 'x' } } }),
      'a column of the new side',
    ],
    [
      'a way back that nothing replaces',
      withMapping(
        { columns: { first: 'name' }, reverse: { columns: { name: 'first', x: 'id' } } },
        { expand: { columns: [column('first', 'name')] } },
      ),
      'reverse.columns.x: is replaced by no new column',
    ],
    [
      'two mappings of a table',
      { ...smallest, mappings: [mapping, mapping] },
      'mappings[1].source: has a mapping already',
    ],
    [
      'a column nobody fills',
      { ...smallest, expand: { columns: [column('x')] } },
      'expand.columns[0].name: is filled by no mapping',
    ],
    [
      'a table nobody maps',
      { ...smallest, expand: { columns: [{ ...column('first'), table: 'x' }] } },
      'expand.columns[0].table: is the source of no mapping',
    ],
    [
      'a replaced key',
      { ...smallest, expand: { columns: [column('first', ['id', 'name']), ...columns.slice(1)] } },
      'expand.columns[0].replaces: is a key column',
    ],
    [
      'a column twice',
      { ...smallest, expand: { columns: [...columns, column('first')] } },
      'expand.columns[3].name: is described twice',
    ],
    [
      'a new column replaced',
      { ...smallest, expand: { columns: [...columns, column('note', 'first')] } },
      'columns.first: is replaced by another',
    ],
    [
      'an index elsewhere',
      { ...smallest, expand: { columns, columnIndexes: [{ table: 'x', name: 'i', on: '(a)' }] } },
      'expand.columnIndexes[0].table',
    ],
    [
      'new tables',
      {
        ...smallest,
        expand: { columns, tables: [{ table: 'x', columns: { id: 'int' }, primaryKey: ['id'] }] },
      },
      'expand.tables: is for kind "table"',
    ],
  ] as [string, object, string][])('is refused with %s', (_, definition, expected) => {
    expect(findings(definition).join('\n')).toContain(expected)
  })
})

test.each([
  ['no target', { target: undefined }, {}, 'mappings[0].target: is missing'],
  ['its source as its target', { target: 'users' }, {}, 'mappings[0].target: is the source itself'],
  [
    'new columns',
    {},
    { columns: [{ table: 'users', name: 'a', type: 'int' }] },
    'expand.columns: is for kind "column"',
  ],
])('a definition of kind table is refused with %s', (_, change, more, expected) => {
  expect(findings({ ...smallest, mappings: [{ ...mapping, ...change }], expand: more })).toContainEqual(
    expect.stringContaining(expected),
  )
})

test('canonical JSON sorts keys at every depth and leaves out what is undefined', () => {
  expect(canonicalJson({ b: [{ d: 1, c: undefined }, null], a: 'ä' })).toBe('{"a":"ä","b":[{"d":1},null]}')
})
