import type { Dialect } from '../dialect.ts'
import * as access from './access.ts'
import * as catalog from './catalog.ts'
import { evaluate, load } from './load.ts'
import * as changeLog from './change-log.ts'
import * as columns from './columns.ts'
import * as columnSwap from './column-swap.ts'
import * as columnTwins from './column-twins.ts'
import * as compare from './compare.ts'
import * as copy from './copy.ts'
import * as dependents from './dependents.ts'
import * as ddl from './ddl.ts'
import * as errors from './errors.ts'
import { setAside } from './exchange.ts'
import { facts } from './facts.ts'
import * as flags from './flags.ts'
import { misfits } from './misfits.ts'
import { ourTable, scopeOf } from './objects.ts'
import { captureHazards, longTransactions } from './hazards.ts'
import { exists, read } from './journal.ts'
import * as mends from './mends.ts'
import * as parity from './parity.ts'
import * as pulse from './pulse.ts'
import * as ranges from './ranges.ts'
import { advanceSequences } from './sequences.ts'
import { privileges } from './rights.ts'
import * as triggers from './triggers.ts'

export const postgres: Dialect = {
  errors,
  catalog: {
    ...catalog,
    captureHazards,
    evaluate,
    facts,
    load,
    longTransactions,
    privileges,
    scope: scopeOf,
  },
  ddl: { ...ddl, advanceSequences },
  access,
  columns: { ...columns, ...columnSwap, ...columnTwins },
  dependents: { ...dependents, misfits },
  triggers,
  mends,
  journal: { exists, read },
  definitions: {
    async save(tx, scope, fingerprint, definition) {
      await tx.query(`UPDATE ${ourTable(scope, 'state')} SET fingerprint = $1, definition = $2`, [
        fingerprint,
        definition,
      ])
    },
    async load(tx, scope) {
      const row = (
        await tx.query(
          `SELECT fingerprint, definition FROM ${ourTable(scope, 'state')} WHERE definition IS NOT NULL`,
        )
      ).rows[0]
      return row && { fingerprint: row['fingerprint'] ?? '', definition: row['definition'] ?? '' }
    },
    async savePlanned(tx, scope, planned) {
      await tx.query(`UPDATE ${ourTable(scope, 'state')} SET planned = $1`, [planned])
    },
    async loadPlanned(tx, scope) {
      // By to_jsonb, so that a schema that an earlier version made, without the column, answers too.
      const { rows } = await tx.query(
        `SELECT to_jsonb(s)->>'planned' AS planned FROM ${ourTable(scope, 'state')} s`,
      )
      return rows[0]?.['planned'] ?? undefined
    },
  },
  changeLog,
  copy: { ...copy, setAside },
  compare,
  ranges,
  pulse,
  parity,
  flags,
}
