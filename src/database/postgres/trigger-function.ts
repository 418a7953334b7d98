import { formatTable, type TableName } from '../../core/link.ts'
import type { Transaction } from '../database.ts'
import { quoteIdentifier, quoteLiteral, quoteTable } from './identifiers.ts'
import { evaluationSettings } from './session.ts'

/** What all our trigger functions share: how one is made, and whether its triggers are there and fire for every session. */

/** The path that our own session resolves names with, so that the definition's expressions mean the same in the function. */
export async function searchPath(tx: Transaction): Promise<string> {
  const result = await tx.query('SELECT unnest(current_schemas(false)) AS name')
  return [...result.rows.map((row) => quoteIdentifier(row['name'] ?? '')), 'pg_temp'].join(', ')
}

/** A dollar quote whose tag does not occur in the text. */
function dollarQuote(text: string): string {
  let tag = '$crossfade$'
  for (let i = 0; text.includes(tag); i++) tag = `$crossfade${i}$`
  return `${tag}${text}${tag}`
}

/** Runs as its owner, with the settings that make an expression mean the same in every session. */
export const createTriggerFunction = (
  name: TableName,
  body: string,
  path: string,
  settings: Readonly<Record<string, string>>,
): string =>
  createFunction(`${quoteTable(name)}() RETURNS trigger`, body, path, { ...settings, ...evaluationSettings })

/** The same of any function; `signature` is its name with its arguments, and what it returns. */
export const createFunction = (
  signature: string,
  body: string,
  path: string,
  settings: Readonly<Record<string, string>>,
): string =>
  `CREATE OR REPLACE FUNCTION ${signature} LANGUAGE plpgsql SECURITY DEFINER SET search_path = ${path} ` +
  Object.entries(settings)
    .map(([setting, value]) => `SET ${setting} = ${quoteLiteral(value)}`)
    .join(' ') +
  ` AS ${dollarQuote(body)}`

/** Those of the named triggers that a table lacks, or that some sessions would pass by. */
export async function checkNames(
  tx: Transaction,
  table: TableName,
  names: readonly string[],
): Promise<string[]> {
  const result = await tx.query(
    'SELECT tgname, tgenabled FROM pg_trigger WHERE tgname = ANY ($1::text[]) AND tgrelid = to_regclass($2)',
    [names, quoteTable(table)],
  )
  const enabled = new Map(result.rows.map((row) => [row['tgname'], row['tgenabled']]))
  return names.flatMap((name) =>
    enabled.get(name) === 'A'
      ? []
      : [
          enabled.has(name)
            ? `trigger ${name} on ${formatTable(table)} is not enabled for every session`
            : `trigger ${name} is missing on ${formatTable(table)}`,
        ],
  )
}
