import { defineMigration } from 'crossfade-db'

export default defineMigration({
  name: 'orders',
  kind: 'table',
  sync: { method: 'application' },
  mappings: [
    {
      source: 'orders',
      target: 'orders_v2',
      key: { id: 'id' },
      columns: { customer: true, total: 'total_cents / 100.0', status: 'upper(state)' },
      reverse: { columns: { customer: true, total_cents: '(total * 100)::int', state: 'lower(status)' } },
    },
  ],
  expand: {
    tables: [
      {
        table: 'orders_v2',
        columns: {
          id: 'bigint NOT NULL',
          customer: 'text NOT NULL',
          total: 'numeric(12, 2) NOT NULL',
          status: 'text NOT NULL',
        },
        primaryKey: ['id'],
        indexes: [{ name: 'orders_v2_customer', on: '(customer)' }],
      },
    ],
  },
})
