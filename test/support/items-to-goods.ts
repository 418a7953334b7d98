import type { DefinitionInput } from '../../src/index.ts'

/** The table that {@link Ledger} and {@link Application} write, under a new name, with other types, and an index. */
export const itemsToGoods = {
  kind: 'table',
  mappings: [
    {
      source: 'items',
      target: 'goods',
      key: { id: 'id' },
      columns: { name: true, price: 'price::numeric' },
      reverse: { columns: { name: true, price: 'price::int' } },
    },
  ],
  expand: {
    tables: [
      {
        table: 'goods',
        columns: { id: 'bigint NOT NULL', name: 'text NOT NULL', price: 'numeric NOT NULL' },
        primaryKey: ['id'],
        indexes: [{ name: 'goods_name', on: '(name)' }],
      },
    ],
  },
} as const satisfies Partial<DefinitionInput>
