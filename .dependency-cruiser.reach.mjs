// What a file loads in the end, through any number of others. Type-only imports are erased first: they load nothing.
import { drivers } from './levels.mjs'

const packages = (names) => `(^|node_modules/)(${names.join('|')})(/|$)`
const tests = '\\.test\\.ts$'

/** @type {import('dependency-cruiser').IConfiguration} */
export default {
  forbidden: [
    {
      name: 'app-never-reaches-temporal',
      severity: 'error',
      comment:
        'app/ is loaded by every instance of the service that is being migrated: it must not pay for Temporal (or zod, or the planner).',
      from: { path: '^src/app/', pathNot: tests },
      to: { reachable: true, path: [packages(['@temporalio', 'zod']), '^src/plan/'] },
    },
    {
      name: 'author-never-reaches-temporal',
      severity: 'error',
      comment:
        'A migration file imports index.ts: reading it must be quick, and needs no Temporal and no driver.',
      from: { path: '^src/index\\.ts$' },
      to: { reachable: true, path: packages(['@temporalio', ...drivers]) },
    },
    {
      name: 'workflows-never-reach-node-or-drivers',
      severity: 'error',
      comment: 'The workflow bundle runs in a sandbox without Node: what reaches it here fails there.',
      from: { path: '^src/workflows/', pathNot: tests },
      to: {
        reachable: true,
        path: [
          packages([...drivers, 'zod', 'pino', 'commander', 'jiti']),
          '^(node:)?(fs|net|tls|http|https|child_process|crypto|os|path|stream|url|util|timers|worker_threads|process|events|async_hooks|perf_hooks)(/|$)',
        ],
      },
    },
    {
      name: 'client-never-reaches-drivers',
      severity: 'error',
      comment:
        'A client reaches a migration through Temporal, from anywhere: it must not need a database driver.',
      from: { path: '^src/client\\.ts$' },
      to: { reachable: true, path: packages(drivers) },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: false,
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'require', 'node', 'default'],
    },
  },
}
