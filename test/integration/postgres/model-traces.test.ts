import { describe, expect, test, type TestContext } from 'vitest'
import {
  exploreFamily,
  families,
  joined,
  type FamilyExploration,
  type FamilyName,
} from '../../model/configurations.ts'
import type { TraceStep } from '../../model/explore.ts'
import { selectRunningChunks } from '../../../src/database/postgres/ranges.ts'
import type { Mutation } from '../../model/mutations.ts'
import type { Configuration } from '../../model/pair.ts'
import { withBothSides, type BothSides } from '../../support/both-sides.ts'
import { joinedMapping, joinedTables, playJoined } from '../../support/play-joined.ts'
import { mapping, play, tables } from '../../support/play-trace.ts'
import { postgresVersions, type PostgresVersion } from '../../support/postgres.ts'
import type { Instead } from '../../support/stepped.ts'

/** The rule taken out of the real code, too: a statement of ours rewritten on its way, or a trigger function replaced. */
interface Break {
  readonly instead?: Instead
  readonly function?: (definition: string) => string
}

const nothing = (): Promise<{ rows: []; rowCount: number }> => Promise.resolve({ rows: [], rowCount: 0 })

const rewritten =
  (of: RegExp, change: (sql: string) => string): Instead =>
  (sql, values, query) =>
    of.test(sql) ? query(change(sql), values) : undefined

/** Entries of a kind never get into the log. */
const leavesNone =
  (kind: 'c' | 'l'): Instead =>
  (sql, values) =>
    /^INSERT INTO \S*changes_/.test(sql) && (values?.[0] as string[])[0] === kind ? nothing() : undefined

const answered =
  (of: RegExp, row: Record<string, string>): Instead =>
  (sql) =>
    of.test(sql) ? Promise.resolve({ rows: [row], rowCount: 1 }) : undefined

/** The first attempt has claimed its range with 1, the second one with 2. */
const everyFenceIsRight: Instead = (sql, values, query, actor) =>
  /^SELECT fence/.test(sql)
    ? query(sql.replace('fence', `${actor.endsWith('a') ? 1 : 2} AS fence`), values)
    : undefined

/** What runs is read before the transaction that takes the entries. */
function runningReadBefore(): Instead {
  const known = new Map<string, string[]>()
  return (sql, values, query, actor) => {
    const inTake = `ARRAY(${selectRunningChunks({ migration: 'm', schema: '_crossfade_m' })})`
    if (/kind = 't'/.test(sql))
      return query(inTake.slice('ARRAY('.length, -1)).then(({ rows }) => {
        known.set(
          actor,
          rows.map((row) => row['virtualtransaction'] ?? ''),
        )
        return query(sql, values)
      })
    if (!sql.includes(inTake)) return undefined
    return query(sql.replace(inTake, '$1::text[]'), [known.get(actor) ?? []])
  }
}

const insertsOfKeys = /INSERT INTO \S*changes_f1[^;]*;/g

interface Replay {
  readonly in: FamilyName
  /** Undefined where a rewritten statement cannot take the rule out: then only that the real code holds is shown. */
  readonly breaks?: Break
}

const nothingPending = answered(/AS pending/, { pending: '0', stuck: '0', age: '0' })

const noLog: Instead = (...statement) =>
  /^DELETE FROM \S*changes_/.test(statement[0]) ? nothing() : nothingPending(...statement)

const replays: Partial<Record<Mutation, Replay>> = {
  chunkOverwrites: {
    in: 'lane',
    breaks: {
      instead: rewritten(/^INSERT INTO "public"/, (sql) =>
        sql.replace(
          /WHERE NOT EXISTS.*$|ON CONFLICT.*$/,
          'ON CONFLICT (id) DO UPDATE SET name = excluded.name',
        ),
      ),
    },
  },
  chunkUnmarked: {
    in: 'lane',
    breaks: { instead: rewritten(/pg_advisory_xact_lock_shared/, () => 'SELECT 1') },
  },
  chunkMarkedLate: { in: 'lane' },
  chunkUnmarkedEarly: { in: 'lane' },
  chunkUnfenced: {
    in: 'lane',
    breaks: { instead: everyFenceIsRight },
  },
  checkpointFirst: { in: 'lane' },
  deletesLeaveNoKey: {
    in: 'lane',
    breaks: { function: (text) => text.replace(/INSERT INTO \S*changes_f1[^;]*WHERE NOT EXISTS[^;]*;/, '') },
  },
  givesUpSilently: { in: 'lane', breaks: { function: (text) => text.replaceAll(insertsOfKeys, 'NULL;') } },
  equalIsNotWritten: {
    in: 'appliers',
    breaks: {
      function: (text) =>
        text.replaceAll(
          /(WITH _crossfade_written AS [^;]*?) RETURNING ([^;]*);/g,
          '$1 AND _crossfade_t.name IS DISTINCT FROM _crossfade_s.name RETURNING $2 ON CONFLICT DO NOTHING;',
        ),
    },
  },
  triggerPassesOver: {
    in: 'lane',
    breaks: {
      function: (text) =>
        text.replaceAll(/(WITH _crossfade_written AS [^;]*);/g, '$1 ON CONFLICT DO NOTHING;'),
    },
  },
  readBeforeLock: {
    in: 'appliers',
    breaks: {
      instead: rewritten(/^SELECT _crossfade_n FROM \(/, (sql) =>
        sql.replace(/ FOR UPDATE( SKIP LOCKED)?/, ''),
      ),
    },
  },
  deletesBlindly: {
    in: 'lane',
    breaks: { instead: rewritten(/^DELETE FROM "public"/, (sql) => sql.replace(/ AND NOT EXISTS .*$/, '')) },
  },
  deletesUnlocked: {
    in: 'lane',
    breaks: {
      instead: rewritten(/^SELECT _crossfade_n FROM \(/, (sql) =>
        sql.replace(/ FOR UPDATE( SKIP LOCKED)?/, ''),
      ),
    },
  },
  insertIsEnough: { in: 'lane', breaks: { instead: leavesNone('c') } },
  busyIsForgotten: { in: 'lane', breaks: { instead: leavesNone('c') } },
  applierUnmarked: {
    in: 'appliers',
    breaks: { instead: rewritten(/pg_advisory_xact_lock_shared/, () => 'SELECT 1') },
  },
  entryTakenFirst: { in: 'lane' },
  noSecondLook: { in: 'lane', breaks: { instead: leavesNone('l') } },
  secondLookAtOnce: {
    in: 'lane',
    breaks: {
      instead: rewritten(/^DELETE FROM \S*changes_/, (sql) => sql.replace('look_after IS NULL', 'true')),
    },
  },
  chunksNamedAtCommit: { in: 'lane' },
  secondLookIsLastForAll: { in: 'deletes' },
  runningReadFirst: { in: 'lane and appliers', breaks: { instead: runningReadBefore() } },
  swapUndrained: { in: 'swap', breaks: { instead: noLog } },
  swapDrainsFirst: { in: 'swap', breaks: { instead: noLog } },
  swapIgnoresTaken: {
    in: 'swap',
    breaks: { instead: nothingPending },
  },
  swapUnlocked: { in: 'swap' },
  swapLeavesTriggers: {
    in: 'swap',
    breaks: { instead: rewritten(/^CREATE OR REPLACE TRIGGER/, () => 'SELECT 1') },
  },
}

/** Each is explored once, for every version and with the rule and without. */
const explorations = new Map<Mutation, FamilyExploration>()

function explored(mutation: Mutation, family: FamilyName): FamilyExploration {
  const exploration = explorations.get(mutation) ?? exploreFamily(family, new Set([mutation]))
  explorations.set(mutation, exploration)
  return exploration
}

function traceOf(
  mutation: Mutation,
  family: FamilyName,
): { trace: readonly TraceStep[]; configuration: Configuration } {
  const { counterexample, configuration } = explored(mutation, family)
  const found = families[family].configurations[configuration]
  if (!counterexample || !found) throw new Error(`${mutation} is not caught in ${family}.`)
  return { trace: counterexample.trace, configuration: found }
}

/** What is wrong at the end: rows of one side only, and rows that were counted other than once. */
async function wrong(
  t: TestContext,
  version: PostgresVersion,
  mutation: Mutation,
  family: FamilyName,
  breaks: Break = {},
): Promise<unknown[]> {
  const { trace, configuration } = traceOf(mutation, family)
  const m = await withBothSides(t, version, tables(configuration), {
    mappings: [mapping],
    sync: { maxWaitMs: 10 },
    cutover: { mode: configuration.swaps ? 'swap' : 'flags' },
  })
  if (breaks.function) await replaceFunctions(m, breaks.function)
  await play(m, configuration, trace, breaks.instead)
  const [left, right] = configuration.swaps ? ['users', '_crossfade_retired_users'] : ['users', 'people']
  const found: unknown[] = await m.differences(
    `SELECT id, name FROM ${left}`,
    `SELECT id, name FROM ${right}`,
  )
  const counted = await m.sql(
    'SELECT rows_done FROM _crossfade_m.ranges WHERE rows_done > (SELECT count(*) FROM users) AND rows_done > 1',
  )
  return [...found, ...counted]
}

/** Rows that are made from two tables. */
const joinedReplays: Partial<Record<Mutation, Break>> = {
  joinedLeavesNoKey: {
    function: (text) =>
      text.replace(/INSERT INTO \S*changes_f1[^;]*FROM unnest[^;]*;(?=\s*PERFORM set_config)/, ''),
  },
  linkResolvedAtOnce: {
    function: (text) =>
      text.replace(
        /INSERT INTO \S*links_f1_0"? \(v1\) SELECT DISTINCT _crossfade_c\."id" FROM \(([^;]*)\) AS _crossfade_c WHERE [^;]*;/,
        `INSERT INTO _crossfade_m.changes_f1 (kind, k1) SELECT 'c', o.id FROM public.orders o JOIN ($1) AS c ON c.id = o.customer;`,
      ),
  },
  copiesOverNewSide: {
    instead: rewritten(/^WITH _crossfade_l AS/, (sql) =>
      sql.replace(/ AND \(SELECT primary_side FROM \S+\) = 'old'/, ''),
    ),
  },
  newLinkOnly: {
    function: (text) =>
      text.replace(/SELECT "id" FROM _crossfade_old UNION (?=[^;]*AS _crossfade_c WHERE)/, ''),
  },
}

async function wrongJoined(
  t: TestContext,
  version: PostgresVersion,
  mutation: Mutation,
  breaks: Break = {},
): Promise<unknown[]> {
  const { counterexample, configuration } = explored(mutation, 'joined')
  const found = joined[configuration]
  if (!counterexample || !found) throw new Error(`${mutation} is not caught in joined.`)
  const m = await withBothSides(t, version, joinedTables(found), { mappings: [joinedMapping] })
  if (breaks.function) await replaceFunctions(m, breaks.function)
  return playJoined(m, found, counterexample.trace, breaks.instead)
}

async function replaceFunctions(m: BothSides, change: (definition: string) => string): Promise<void> {
  const functions = await m.sql(
    `SELECT pg_get_functiondef(oid) AS text FROM pg_proc WHERE pronamespace = '_crossfade_m'::regnamespace AND prorettype = 'trigger'::regtype`,
  )
  let changed = 0
  for (const { text } of functions as { text: string }[]) {
    const other = change(text)
    if (other === text) continue
    changed += 1
    await m.sql(other)
  }
  expect(changed).toBeGreaterThan(0)
}

describe.each(postgresVersions())('traces of the model on PostgreSQL %s', (version) => {
  for (const [mutation, { in: family, breaks }] of Object.entries(replays) as [Mutation, Replay][]) {
    test(`${mutation}: the code as it is stands the interleaving`, async (t) => {
      expect(await wrong(t, version, mutation, family)).toEqual([])
    })
    if (breaks)
      test(`${mutation}: the same interleaving without the rule (so the test above can fail)`, async (t) => {
        expect(await wrong(t, version, mutation, family, breaks)).not.toEqual([])
      })
  }
  for (const [mutation, breaks] of Object.entries(joinedReplays) as [Mutation, Break][]) {
    test(`${mutation}: the code as it is stands the interleaving`, async (t) => {
      expect(await wrongJoined(t, version, mutation)).toEqual([])
    })
    test(`${mutation}: the same interleaving without the rule (so the test above can fail)`, async (t) => {
      expect(await wrongJoined(t, version, mutation, breaks)).not.toEqual([])
    })
  }
})
