import type { Scope } from '../steps.ts'
import { inScope } from './scope.ts'

/** All that an instance acts on, as `standing()` of client-functions.ts says it. */
export const askStanding = (scope: Scope): string => `SELECT ${inScope(scope, 'standing')}()::text AS it`

/** What remains after the contract, and all that there is of a migration that began with an earlier version: two tables to read. */
export const readStanding = (scope: Scope): string =>
  `SELECT jsonb_build_object('incarnation', s.tableoid::text, 'epoch', s.epoch, 'primary', s.primary_side, ` +
  `'flags', (SELECT coalesce(jsonb_object_agg(f.key, f.percent), '{}') FROM ${inScope(scope, 'flags')} f))::text AS it FROM ${inScope(scope, 'state')} s`

/** Which of the two can be asked: a look-up of names, which fails nobody's transaction. */
export const findStanding = (scope: Scope): { readonly text: string; readonly values: string[] } => ({
  text: `SELECT to_regprocedure($1) IS NOT NULL AS called, to_regclass($2) IS NOT NULL AS read`,
  values: [`${inScope(scope, 'standing')}()`, inScope(scope, 'state')],
})
