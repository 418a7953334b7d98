/**
 * The levels of `src`, as data. A folder (or file) imports only lower levels; siblings never import each other except where
 * `beside` names them; what two siblings share sinks a level. `.dependency-cruiser*.mjs` derive their rules from this list.
 *
 * @typedef {object} Place
 * @property {string} name a folder of `src`, or a file in it
 * @property {number} level
 * @property {string} does one sentence
 * @property {string[]} [beside] siblings of the same level that it may import
 * @property {string[]} [packages] the only packages that it may load (`node:` stands for Node's own modules)
 */

/** @type {Place[]} */
export const places = [
  {
    name: 'cli',
    level: 8,
    does: 'turns arguments into calls and results into text',
    beside: ['dev', 'demo'],
  },
  {
    name: 'demo',
    level: 8,
    does: 'runs a whole migration under load, with crashes, on this machine',
    beside: ['dev'],
  },
  { name: 'dev', level: 8, does: 'starts and stops the local Temporal server and databases' },
  { name: 'worker.ts', level: 7, does: 'runs the worker process' },
  { name: 'index.ts', level: 7, does: 'is what the author of a migration imports' },
  { name: 'client.ts', level: 6, does: 'gives one typed handle per running migration' },
  {
    name: 'workflows',
    level: 5,
    does: 'decides what happens next, deterministically',
    packages: ['@temporalio/workflow', '@temporalio/common'],
  },
  {
    name: 'activities',
    level: 4,
    does: 'holds what a workflow may ask for; thin, made from its dependencies',
  },
  { name: 'app', level: 4, does: 'is what a service imports: dual write, dual read, flags' },
  {
    name: 'plan',
    level: 3,
    does: 'looks at a database and chooses a strategy, with reasons',
    beside: ['copy', 'ddl'],
  },
  {
    name: 'ddl',
    level: 3,
    does: 'holds the order of the DDL steps and how one is run',
    beside: ['copy', 'sync'],
  },
  { name: 'copy', level: 3, does: 'holds copyRange and copyKeys: the rules of copying' },
  { name: 'sync', level: 3, does: 'keeps both sides equal while writes go on', beside: ['copy'] },
  { name: 'backfill', level: 3, does: 'copies by key range', beside: ['copy'] },
  { name: 'verify', level: 3, does: 'proves equality by key range, and repairs', beside: ['copy'] },
  { name: 'flags', level: 3, does: 'holds the store of the flags and their synchronous evaluator' },
  { name: 'telemetry', level: 3, does: 'is the one list of metric, log and span names' },
  { name: 'definition', level: 2, does: 'reads a migration file: schema, defaults, fingerprint' },
  { name: 'database', level: 2, does: 'is one interface, with one folder per dialect behind it' },
  { name: 'core', level: 1, does: 'holds the pure decisions', packages: [] },
  { name: 'errors', level: 0, does: 'holds the one error class', packages: [] },
]

/** The folders of `src/database` that nobody outside of it may name. */
export const dialects = ['postgres', 'mysql']

/** The packages that talk to a database. */
export const drivers = ['pg', 'mysql2']
