import type { CommandSpec } from '../command.ts'

export const schema: CommandSpec<object> = {
  name: 'schema',
  summary: 'print the JSON Schema of a definition',
  description:
    'For editors, and for definitions in JSON. With --json nothing changes: the schema is the one JSON object.',
  examples: [
    { run: 'crossfade schema > migration.schema.json', does: 'keeps it for "$schema"' },
    { run: 'crossfade schema | jq .properties.backfill', does: 'shows the settings of the backfill' },
  ],
  async run({ streams }) {
    const { definitionJsonSchema } = await import('../../definition/index.ts')
    streams.out(JSON.stringify(definitionJsonSchema(), undefined, 2))
    return undefined
  },
}
