import type { DefinitionInput } from '../definition/index.ts'

/** A definition to start from: the object, and the comments that stand above its parts. */
export interface Template {
  readonly does: string
  definition(name: string): DefinitionInput
  /** By dotted path; a number stands for the place in a list. */
  readonly comments: Readonly<Record<string, string>>
}

const life: Pick<DefinitionInput, 'cutover' | 'retire' | 'contract'> = {
  cutover: {
    ramp: [
      { percent: 1, hold: '10m' },
      { percent: 10, hold: '30m' },
      { percent: 50, hold: '1h' },
      { percent: 100, hold: '1h' },
    ],
  },
  retire: { soak: '7d' },
  contract: { observe: '10m', soak: '1d' },
}

const commonComments: Template['comments'] = {
  mappings: 'Which rows of the old side make which rows of the new side. Expressions are SQL over one row.',
  'mappings.0.reverse':
    'How a new row becomes the old one again. It is tried on every row before anything depends on it.',
  expand: 'What is created beside the old tables. Indexes that are not unique are built after the backfill.',
  cutover: 'Reads move over in these steps; a breach takes them back by itself.',
  retire: 'How long the old side is kept in step after the new one became primary.',
  contract: 'How long nobody may touch the old side before it is renamed away, and how long it is kept then.',
}

const reshape: Template = {
  does: 'reshape one table into a new one',
  definition: (name) => ({
    name,
    kind: 'table',
    mappings: [
      {
        source: 'users',
        target: 'people',
        key: { id: 'id' },
        columns: {
          full_name: 'name',
          contact: "jsonb_build_object('email', email, 'phone', phone)",
          created_at: true,
        },
        reverse: {
          columns: {
            name: 'full_name',
            email: "contact->>'email'",
            phone: "contact->>'phone'",
            created_at: true,
          },
        },
      },
    ],
    expand: {
      tables: [
        {
          table: 'people',
          columns: {
            id: 'bigint NOT NULL',
            full_name: 'text NOT NULL',
            contact: 'jsonb NOT NULL',
            created_at: 'timestamptz NOT NULL',
          },
          primaryKey: ['id'],
          indexes: [{ name: 'people_email', on: "((contact->>'email'))" }],
        },
      ],
    },
    ...life,
  }),
  comments: commonComments,
}

const split: Template = {
  does: 'split one table into two',
  definition: (name) => ({
    name,
    kind: 'table',
    mappings: [
      {
        source: 'users',
        target: 'people',
        key: { id: 'id' },
        columns: { full_name: 'name', created_at: true },
        reverse: { columns: { name: 'full_name', created_at: true } },
      },
      {
        source: 'users',
        target: 'contacts',
        key: { id: 'person_id' },
        columns: { email: true, phone: true },
        reverse: { columns: { email: true, phone: true } },
      },
    ],
    expand: {
      tables: [
        {
          table: 'people',
          columns: {
            id: 'bigint NOT NULL',
            full_name: 'text NOT NULL',
            created_at: 'timestamptz NOT NULL',
          },
          primaryKey: ['id'],
        },
        {
          table: 'contacts',
          columns: { person_id: 'bigint NOT NULL', email: 'text NOT NULL', phone: 'text' },
          primaryKey: ['person_id'],
          indexes: [{ name: 'contacts_email', on: '(email)' }],
          foreignKeys: [
            {
              name: 'contacts_person',
              columns: ['person_id'],
              references: { table: 'people', columns: ['id'] },
              onDelete: 'cascade',
            },
          ],
        },
      ],
    },
    ...life,
  }),
  comments: {
    ...commonComments,
    'mappings.0.reverse':
      'Both halves make the old row again. It is tried on every row before anything depends on it.',
  },
}

export const templates = { reshape, split } as const satisfies Record<string, Template>
export type TemplateName = keyof typeof templates

/** The text of a config file: TypeScript or JavaScript with comments, or JSON. */
export function renderTemplate(template: Template, name: string, format: 'module' | 'json'): string {
  const definition = template.definition(name)
  if (format === 'json') return `${JSON.stringify(definition, undefined, 2)}\n`
  return [
    "import { defineMigration } from 'crossfade-db'",
    '',
    '// Every setting, its default and its unit: docs/reference/definition.md, or `crossfade schema`.',
    `export default defineMigration(${renderLiteral(definition, '', template.comments, 0)})`,
    '',
  ].join('\n')
}

function renderLiteral(value: unknown, path: string, comments: Template['comments'], depth: number): string {
  if (typeof value !== 'object' || value === null) return renderScalar(value)
  const isList = Array.isArray(value)
  const inner = '  '.repeat(depth + 1)
  const parts = Object.entries(value).map(([key, item]) => {
    const at = path === '' ? key : `${path}.${key}`
    const comment = comments[at]
    const text = renderLiteral(item, at, comments, depth + 1)
    return `${comment === undefined ? '' : `// ${comment}\n${inner}`}${isList ? '' : `${renderKey(key)}: `}${text}`
  })
  const short = isList ? `[${parts.join(', ')}]` : `{ ${parts.join(', ')} }`
  if (
    parts.length > 0 &&
    !short.includes('\n') &&
    inner.length + path.length + short.length <= 90 &&
    depth > 0
  )
    return short
  const [open, close] = isList ? '[]' : '{}'
  return `${open}\n${parts.map((part) => `${inner}${part},\n`).join('')}${'  '.repeat(depth)}${close}`
}

const renderKey = (key: string): string => (/^[a-z_$][\w$]*$/i.test(key) ? key : renderScalar(key))

function renderScalar(value: unknown): string {
  if (typeof value !== 'string') return JSON.stringify(value)
  const escaped = value.replaceAll('\\', '\\\\')
  return escaped.includes("'") ? `"${escaped.replaceAll('"', '\\"')}"` : `'${escaped}'`
}
