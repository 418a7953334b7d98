#!/usr/bin/env node
import { CommanderError } from 'commander'
import { exitCodeOf, exitCodes, type ExitCode } from './exit-codes.ts'
import { reportError, toReportable } from './output/error-report.ts'
import { renderJsonError } from './output/json.ts'
import { createStreams } from './output/streams.ts'
import { createProgram, runProgram, toUsageError } from './program.ts'

const argv = process.argv.slice(2)
const streams = createStreams(process)

/** Before `--` only: what comes after it are arguments. */
const isGiven = (flag: string): boolean =>
  argv.slice(0, argv.includes('--') ? argv.indexOf('--') : undefined).includes(flag)

async function main(): Promise<ExitCode> {
  let exitCode: ExitCode = exitCodes.done
  try {
    const program = createProgram(streams, (code) => void (exitCode = code))
    await runProgram(program, argv)
    return exitCode
  } catch (caught) {
    if (caught instanceof CommanderError && caught.exitCode === 0) return exitCodes.done // help or version, asked for
    const error = caught instanceof CommanderError ? toUsageError(caught, argv) : caught
    const reportable = toReportable(error)
    if (isGiven('--json')) streams.out(renderJsonError(reportable))
    else reportError(streams, error, { trace: isGiven('--trace') })
    return exitCodeOf(reportable)
  }
}

const exitCode = await main()
await streams.flush()
process.exit(exitCode)
