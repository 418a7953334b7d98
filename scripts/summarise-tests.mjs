// Prints `N passed, N failed[, N skipped]` from vitest's JSON report; the exit code is 1 when anything failed or nothing ran.
//
//   node scripts/summarise-tests.mjs REPORT.json
import { readFileSync } from 'node:fs'

const [file] = process.argv.slice(2)
if (!file) {
  process.stderr.write('summarise-tests: name the report: node scripts/summarise-tests.mjs REPORT.json\n')
  process.exit(2)
}

let report
try {
  report = JSON.parse(readFileSync(file, 'utf8'))
} catch (error) {
  process.stderr.write(
    `summarise-tests: ${file} cannot be read, so the tests did not come to an end: ${error.message}\n`,
  )
  process.stdout.write('0 passed, 1 failed\n')
  process.exit(1)
}

const results = report.testResults.flatMap((testFile) => {
  // A file that could not be loaded has no tests, and is a failure all the same; so is a hook that failed after its tests.
  const states = testFile.assertionResults.map((test) => test.status)
  return testFile.status === 'failed' && !states.includes('failed') ? [...states, 'failed'] : states
})
const count = (...states) => results.filter((state) => states.includes(state)).length
const passed = count('passed')
const failed = count('failed')
const skipped = results.length - passed - failed
process.stdout.write(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}\n`)
if (failed > 0 || passed === 0) process.exitCode = 1
