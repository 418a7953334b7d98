import type { Scope } from '../steps.ts'
import { quoteLiteral } from './identifiers.ts'
import { inScope } from './scope.ts'

/**
 * What a client of the flags calls, in any language. The functions run as their owner: an application's role needs no right but
 * the one to connect.
 */

const definer = `LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp`

/** What instances measure is added up by slots of so many seconds, of which the last few are kept. */
export const slotSec = 10
export const slotsKept = 6

/** The slot of now, in SQL. */
export const slotNow = `(extract(epoch FROM clock_timestamp()) / ${slotSec})::bigint`

const measurements = [
  'reads',
  '"readErrors"',
  'writes',
  '"writeErrors"',
  'compared',
  'mismatched',
  '"latencyDeltaMs"',
]

/** An instance that has not been seen for this long is forgotten. */
const forgottenAfter = '1 day'

/**
 * `bucket(salt, key)`: the key's place among a million, the same in SQL and in src/flags/bucket.ts. `standing()`: all that a client
 * acts on, of one instant. `announce(…)`: the same, and says that this instance lives and which epoch it acts on. An epoch of an
 * earlier schema of the same name counts for nothing. `leave(id)`: it ends.
 * `report(id, measured)`: what it has measured since the last time.
 */
export function createClientFunctions(scope: Scope): string[] {
  const t = (name: string): string => inScope(scope, name)
  return [
    `CREATE OR REPLACE FUNCTION ${t('bucket')}(salt text, key text) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT (('x' || substr(encode(sha256(convert_to(encode(sha256(convert_to(salt, 'UTF8')), 'hex') || key, 'UTF8')), 'hex'), 1, 8))::bit(32)::bigint % 1000000)::int $$`,
    `CREATE OR REPLACE FUNCTION ${t('standing')}() RETURNS jsonb ${definer} AS $$
BEGIN
  RETURN (SELECT jsonb_build_object('incarnation', s.tableoid::text, 'epoch', s.epoch, 'primary', s.primary_side,
    'flags', (SELECT coalesce(jsonb_object_agg(f.key, f.percent), '{}') FROM ${t('flags')} f),
    'captures', (SELECT coalesce(jsonb_object_agg(c.source, c.groups), '{}') FROM (SELECT source, jsonb_object_agg(side, group_id) AS groups FROM ${t('captures')} GROUP BY source) c)) FROM ${t('state')} s);
END $$`,
    `CREATE OR REPLACE FUNCTION ${t('announce')}(_id text, _version text, _incarnation text, _epoch bigint, _lease_ms int) RETURNS jsonb ${definer} AS $$
DECLARE
  _known bigint := CASE WHEN _incarnation = ${quoteLiteral(t('state'))}::regclass::oid::text THEN _epoch ELSE -1 END;
BEGIN
  UPDATE ${t('instances')} SET version = _version, epoch = _known, lease_ms = _lease_ms, seen_at = clock_timestamp() WHERE id = _id;
  IF NOT FOUND THEN
    DELETE FROM ${t('instances')} WHERE seen_at < clock_timestamp() - interval '${forgottenAfter}';
    INSERT INTO ${t('instances')} VALUES (_id, _version, _known, _lease_ms, clock_timestamp())
      ON CONFLICT (id) DO UPDATE SET epoch = EXCLUDED.epoch, seen_at = EXCLUDED.seen_at;
  END IF;
  RETURN ${t('standing')}();
END $$`,
    `CREATE OR REPLACE FUNCTION ${t('report')}(_id text, _measured jsonb) RETURNS void ${definer} AS $$
DECLARE
  _slot bigint := ${slotNow};
BEGIN
  INSERT INTO ${t('measured')} AS m SELECT _id, _slot, ${measurements.map((name) => `r.${name}`).join(', ')} FROM jsonb_populate_record(NULL::${t('measured')}, _measured) r
    ON CONFLICT (instance, slot) DO UPDATE SET ${measurements.map((name) => `${name} = m.${name} + EXCLUDED.${name}`).join(', ')};
  DELETE FROM ${t('measured')} WHERE slot <= _slot - ${slotsKept};
END $$`,
    `CREATE OR REPLACE FUNCTION ${t('leave')}(_id text) RETURNS void ${definer} AS $$
BEGIN DELETE FROM ${t('instances')} WHERE id = _id; END $$`,
  ]
}
