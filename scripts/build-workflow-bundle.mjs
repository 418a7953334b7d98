// Bundles dist/workflows into dist/workflow-bundle.js, so that a worker starts without webpack.
// The inline source map stays in: the worker refuses a bundle without it, and stack traces need it.
import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'

const workflows = fileURLToPath(new URL('../dist/workflows/index.js', import.meta.url))
const payloadConverter = fileURLToPath(new URL('../dist/workflows/payload-converter.js', import.meta.url))
const target = fileURLToPath(new URL('../dist/workflow-bundle.js', import.meta.url))

if (!existsSync(workflows)) {
  process.stderr.write(
    `build: there is no ${workflows}, so no workflow bundle can be made. Run \`npm run build\` as a whole.\n`,
  )
  process.exit(1)
}

const { bundleWorkflowCode } = await import('@temporalio/worker')
const quiet = () => {}
const { code } = await bundleWorkflowCode({
  workflowsPath: workflows,
  payloadConverterPath: payloadConverter,
  logger: {
    log: quiet,
    trace: quiet,
    debug: quiet,
    info: quiet,
    warn: (message) => process.stderr.write(`build: ${message}\n`),
    error: (message) => process.stderr.write(`build: ${message}\n`),
  },
})
await writeFile(target, code)
process.stderr.write(`build: dist/workflow-bundle.js, ${Math.round(code.length / 1024)} KiB\n`)
