// Direct imports, types included: who may name whom. What a file loads in the end is in .dependency-cruiser.reach.mjs.
import { dialects, drivers, places } from './levels.mjs'

const escape = (text) => text.replaceAll('.', '\\.')
const inside = (place) => `^src/${escape(place.name)}${place.name.includes('.') ? '$' : '/'}`
const anyOf = (list) => `^(${list.map((place) => inside(place).slice(1)).join('|')})`
/** A package by its bare name, or by the path that it was found at. */
const packages = (names) => `(^|node_modules/)(${names.map(escape).join('|')})(/|$)`
const tests = '\\.test\\.ts$'

const levelRules = places.flatMap((place) => {
  const forbidden = places.filter(
    (other) => other !== place && other.level >= place.level && !place.beside?.includes(other.name),
  )
  return forbidden.length === 0
    ? []
    : [
        {
          name: `level-${place.name}`,
          severity: 'error',
          comment:
            `${place.name} (level ${place.level}) ${place.does}. It imports lower levels only` +
            `${place.beside ? `, and ${place.beside.join(', ')} beside it` : ''}; what it shares with another place sinks a level.`,
          from: { path: inside(place), pathNot: tests },
          to: { path: anyOf(forbidden) },
        },
      ]
})

/** @type {import('dependency-cruiser').IConfiguration} */
export default {
  forbidden: [
    ...levelRules,
    {
      name: 'every-file-has-a-level',
      severity: 'error',
      comment: 'A new folder of src gets its line in levels.mjs first: without it no rule watches over it.',
      from: { path: '^src/', pathNot: [anyOf(places), '^src/[^/]+\\.d\\.ts$'] },
      to: {},
    },
    {
      name: 'pure-core',
      severity: 'error',
      comment:
        'core/ and errors/ are pure: they run in the workflow sandbox and in the application alike, so they load no package and nothing of Node.',
      from: { path: '^src/(core|errors)/', pathNot: tests },
      to: { dependencyTypes: ['npm', 'npm-dev', 'npm-optional', 'npm-peer', 'npm-no-pkg', 'core'] },
    },
    {
      name: 'workflows-are-deterministic',
      severity: 'error',
      comment:
        'Workflow code is replayed: it loads only workflows/, core/, errors/ and the two Temporal packages of the sandbox. Types of lower levels are free (`import type`).',
      from: { path: '^src/workflows/', pathNot: tests },
      to: {
        pathNot: ['^src/(workflows|core|errors)/', packages(['@temporalio/workflow', '@temporalio/common'])],
        dependencyTypesNot: ['type-only', 'type-import'],
      },
    },
    {
      name: 'cli-asks-the-client',
      severity: 'error',
      comment: 'The command line talks to a migration through client.ts: it does not run activities itself.',
      from: { path: '^src/cli/', pathNot: tests },
      to: { path: '^src/activities/', dependencyTypesNot: ['type-only', 'type-import'] },
    },
    {
      name: 'client-has-no-driver',
      severity: 'error',
      comment:
        'A client reaches a migration through Temporal, from anywhere: it must not need a database driver.',
      from: { path: '^src/client\\.ts$' },
      to: { path: packages(drivers) },
    },
    {
      name: 'dialects-by-the-front-door',
      severity: 'error',
      comment:
        'A dialect is named only by database/index.ts, which loads it on demand: everything else is free of dialects, and a PostgreSQL user never loads the MySQL driver.',
      from: { path: '^src/', pathNot: ['^src/database/', '^src/(dev|demo)/', tests] },
      to: { path: `^src/database/(${dialects.join('|')})/` },
    },
    ...dialects.map((dialect) => ({
      name: `dialect-${dialect}-stands-alone`,
      severity: 'error',
      comment: `What the dialects share belongs into database/ itself; ${dialect} does not know the others.`,
      from: { path: `^src/database/${dialect}/`, pathNot: tests },
      to: { path: `^src/database/(${dialects.filter((other) => other !== dialect).join('|')})/` },
    })),
    {
      name: 'drivers-in-database',
      severity: 'error',
      comment: 'Drivers are spoken to in database/ (and by the local servers of dev/ and demo/) only.',
      from: { path: '^src/', pathNot: ['^src/(database|dev|demo)/', tests] },
      to: { path: packages(drivers), dependencyTypesNot: ['type-only', 'type-import'] },
    },
    {
      name: 'no-cycle',
      severity: 'error',
      comment:
        'Two files that load each other have no order in which they can be read, nor one in which they load.',
      from: { path: '^src/' },
      to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only', 'type-import'] } },
    },
    {
      name: 'resolvable',
      severity: 'error',
      comment: 'An import that cannot be resolved breaks at run time.',
      from: { path: '^src/' },
      to: { couldNotResolve: true },
    },
    {
      name: 'no-development-package',
      severity: 'error',
      comment:
        'Sources are published without the development dependencies; an optional peer is one of these here.',
      from: { path: '^src/', pathNot: [tests, '^src/(dev|demo)/'] },
      to: { dependencyTypes: ['npm-dev'], dependencyTypesNot: ['type-only', 'type-import', 'npm-peer'] },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'require', 'node', 'default', 'types'],
    },
  },
}
