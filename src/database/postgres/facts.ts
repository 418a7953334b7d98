import type { Dialect } from '../dialect.ts'
import { quoteTable } from './identifiers.ts'

/**
 * What stands on a table beside its columns, each under a name of its own and in the server's own words, without the name that the
 * table has now. Our own triggers are left out, and so are the constraints of partitions that come from above.
 * https://www.postgresql.org/docs/18/functions-info.html#FUNCTIONS-INFO-CATALOG
 */
export const facts: Dialect['catalog']['facts'] = async (tx, table) => {
  const own = `to_regclass($1)`
  const result = await tx.query(
    `
    SELECT 'owner' AS label, relowner::regrole::text AS definition FROM pg_class WHERE oid = ${own}
    UNION ALL SELECT 'row-level security', concat_ws(', ', CASE WHEN relrowsecurity THEN 'on' ELSE 'off' END, CASE WHEN relforcerowsecurity THEN 'forced' END)
      FROM pg_class WHERE oid = ${own}
    UNION ALL SELECT format('policy %I', polname), concat_ws(' ', polcmd, CASE WHEN polpermissive THEN 'permissive' ELSE 'restrictive' END,
      (SELECT string_agg(CASE r WHEN 0 THEN 'public' ELSE r::regrole::text END, ', ' ORDER BY r) FROM unnest(polroles) r), pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
      FROM pg_policy WHERE polrelid = ${own}
    UNION ALL SELECT format('index %I', c.relname), concat_ws(' ', CASE WHEN indisunique THEN 'unique' END, CASE WHEN NOT indisvalid THEN 'invalid' END,
      substr(pg_get_indexdef(indexrelid), strpos(pg_get_indexdef(indexrelid), ' USING ') + 1)) FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE indrelid = ${own}
    UNION ALL SELECT format('constraint %I', conname), concat_ws(' ', replace(pg_get_constraintdef(oid), 'REFERENCES ' || conrelid::regclass || '(', 'REFERENCES itself('),
      CASE WHEN NOT convalidated THEN 'not validated' END) FROM pg_constraint WHERE conrelid = ${own} AND contype <> 'n' AND contype <> 't'
    UNION ALL SELECT format('default of %I', attname), pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum WHERE adrelid = ${own}
    UNION ALL SELECT format('trigger %I', tgname), concat_ws(' ', replace(pg_get_triggerdef(oid, true), ' ON ' || tgrelid::regclass || ' ', ' ON itself '),
      CASE tgenabled WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'for replicas' WHEN 'A' THEN 'always' END)
      FROM pg_trigger WHERE tgrelid = ${own} AND NOT tgisinternal AND NOT starts_with(tgname, '_crossfade_')
    UNION ALL SELECT format('partition %s', p.relid), pg_get_expr(c.relpartbound, c.oid) FROM pg_partition_tree(${own}) p JOIN pg_class c ON c.oid = p.relid WHERE p.level > 0
    UNION ALL SELECT 'partition key', pg_get_partkeydef(${own}) WHERE pg_get_partkeydef(${own}) IS NOT NULL
    ORDER BY 1`,
    [quoteTable(table)],
  )
  return Object.fromEntries(result.rows.map((row) => [row['label'] ?? '', row['definition'] ?? '']))
}
