import type pg from 'pg'

/**
 * The legacy table, as a program of years ago has it. Keys come from a sequence and have gaps: every eleventh is missing, and
 * after each 50,000 rows a whole region.
 */
const createStatements = [
  'CREATE SEQUENCE customer_numbers',
  `CREATE TABLE customers (
    id bigint PRIMARY KEY DEFAULT nextval('customer_numbers'),
    first_name text NOT NULL, last_name text NOT NULL,
    email text NOT NULL, phone text,
    street text, postcode text, city text, country char(2) NOT NULL,
    preferences jsonb NOT NULL DEFAULT '{}',
    status text NOT NULL DEFAULT 'active',
    balance numeric(12, 2) NOT NULL DEFAULT 0,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now())`,
]

/** The number of the n-th row (from 1): what the seed gives it, and what the load looks up. */
export const seededId = (n: number): number =>
  n + Math.floor((n - 1) / 10) + 10_000 * Math.floor((n - 1) / 50_000)

const seed = `
  INSERT INTO customers (id, first_name, last_name, email, phone, street, postcode, city, country, preferences, status, balance, created_at, updated_at)
  SELECT id, first, last, first || '.' || last || '.' || id || '@' || (ARRAY['example.com','example.org','Example.NET'])[1 + n % 3],
    CASE WHEN n % 4 > 0 THEN '+49 30 ' || lpad((n * 7919 % 10000000)::text, 7, '0') END,
    'Street ' || n % 500 || ', ' || n % 90, lpad((n * 31 % 100000)::text, 5, '0'),
    (ARRAY['Berlin','Paris','Madrid','Oslo','Lima','Accra','Kyoto'])[1 + n % 7], (ARRAY['DE','FR','ES','NO','PE','GH','JP'])[1 + n % 7],
    jsonb_build_object('locale', (ARRAY['de','fr','es','nb','es','en','ja'])[1 + n % 7], 'newsletter', n % 3 = 0, 'theme', jsonb_build_object('dark', n % 2 = 0)),
    (ARRAY['active','active','active','paused','blocked'])[1 + n % 5], (n * 17 % 500000) / 100.0 - 100,
    timestamptz '2019-01-01' + n * interval '7 minutes', timestamptz '2024-01-01' + n * interval '1 minute'
  FROM (SELECT n, n + (n - 1) / 10 + 10000 * ((n - 1) / 50000) AS id,
      (ARRAY['Ada','Grace','Alan','Edsger','Barbara','Donald','Frances','Tony','Radia','Ken','Margaret','Jim'])[1 + n % 12] AS first,
      (ARRAY['Lovelace','Hopper','Turing','Dijkstra','Liskov','Knuth','Allen','Hoare','Perlman','Thompson','Hamilton'])[1 + n % 11] AS last
    FROM generate_series(1::bigint, $1) AS n) AS made`

/** Who the application is to the database: not its owner. */
export const applicationRole = 'shop'

/** Makes the table with `rows` rows, the application's role, and beside it what the demo needs for its proof. */
export async function createCustomers(pool: pg.Pool, rows: number): Promise<void> {
  for (const statement of createStatements) await pool.query(statement)
  await pool.query(seed, [rows])
  await pool.query(`SELECT setval('customer_numbers', $1)`, [seededId(rows)])
  await pool.query('CREATE UNIQUE INDEX customers_email ON customers (lower(email))')
  await pool.query(`CREATE ROLE ${applicationRole} LOGIN`)
  await pool.query(`GRANT SELECT, INSERT, UPDATE, DELETE ON customers TO ${applicationRole}`)
  await pool.query(`GRANT USAGE ON SEQUENCE customer_numbers TO ${applicationRole}`)
  await pool.query('CREATE SCHEMA demo')
  await pool.query(`CREATE TABLE demo.seed AS SELECT id, version, ${oldImage} AS image FROM customers`)
  await pool.query('ALTER TABLE demo.seed ADD PRIMARY KEY (id)')
  await pool.query(
    'CREATE TABLE demo.ledger (id bigint PRIMARY KEY, version integer NOT NULL, image text, is_uncertain boolean NOT NULL)',
  )
  await pool.query('CREATE TABLE demo.requests (id uuid PRIMARY KEY, seen jsonb)')
  await pool.query(`GRANT USAGE ON SCHEMA demo TO ${applicationRole}`)
  await pool.query(`GRANT INSERT ON demo.ledger TO ${applicationRole}`)
  await pool.query(`GRANT SELECT, INSERT, UPDATE ON demo.requests TO ${applicationRole}`)
  await pool.query('VACUUM ANALYZE customers')
  await pool.query('VACUUM ANALYZE demo.seed')
  await pool.query('CHECKPOINT')
}

/** All that a row of the old table (`o`) says. */
export const oldColumns =
  'o.first_name, o.last_name, o.email, o.phone, o.street, o.postcode, o.city, o.country, o.preferences, o.status, o.balance, o.version, o.created_at, o.updated_at'

/** The same of a row of the new side, `p` of people with `c` of contact_points: what the old table would say. */
export const newColumns =
  `p.given_name, p.family_name, c.email, c.phone, c.address ->> 'street', c.address ->> 'postcode', c.address ->> 'city', ` +
  `(c.address ->> 'country')::char(2), p.preferences, p.status, (p.balance_cents::numeric / 100)::numeric(12, 2), p.version, p.created_at, p.updated_at`

/** One fingerprint of it; the same for the same customer on either side. */
export const oldImage = `md5(ROW(${oldColumns.replaceAll('o.', '')})::text)`
export const newImage = `md5(ROW(${newColumns})::text)`

/** What has to hold within a row of the new side: its computed columns. */
export const newIsConsistent =
  `c.person_id IS NOT NULL AND p.full_name = p.given_name || ' ' || p.family_name AND p.locale = coalesce(p.preferences ->> 'locale', 'en') ` +
  `AND c.email_domain = split_part(lower(c.email), '@', 2)`
