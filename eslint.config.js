// @ts-check
import tseslint from 'typescript-eslint'

const noErrorThrown = {
  selector: 'ThrowStatement > NewExpression[callee.name=/^(Error|TypeError|RangeError)$/]',
  message:
    'Throw a CrossfadeError: it says who must act (kind), what happened (code, message) and what mends it.',
}
const noEnum = {
  selector: 'TSEnumDeclaration',
  message: 'Use a union of string literals, or a const object: an enum is code that is not JavaScript.',
}
const noDefaultExport = {
  selector: 'ExportDefaultDeclaration',
  message: 'Export by name: then it has one name everywhere.',
}
const impure = [
  ...['Date', 'performance'].map((name) => ({
    name,
    message: 'core/ is pure: take the time as an argument.',
  })),
  ...['setTimeout', 'setInterval', 'setImmediate', 'process', 'fetch', 'console', 'crypto'].map((name) => ({
    name,
    message: 'core/ is pure: it runs in the workflow sandbox and in the application alike.',
  })),
]

export default tseslint.config(
  { ignores: ['dist', 'coverage', '.cache', '.crossfade', '**/node_modules', '**/generated'] },
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.base],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    rules: {
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/no-misused-promises': 'error',
      '@typescript-eslint/await-thenable': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: true },
      ],
      '@typescript-eslint/consistent-type-imports': ['error', { fixStyle: 'inline-type-imports' }],
      '@typescript-eslint/no-explicit-any': 'error',
      '@typescript-eslint/only-throw-error': 'error',
      'no-restricted-syntax': ['error', noEnum],
      'no-console': 'error',
      eqeqeq: 'error',
      'prefer-const': 'error',
      'max-lines': ['error', { max: 500 }],
      'max-lines-per-function': ['warn', { max: 60, skipComments: true, skipBlankLines: true }],
    },
  },
  {
    files: ['src/**/*.ts'],
    ignores: ['**/*.test.ts'],
    rules: {
      '@typescript-eslint/explicit-module-boundary-types': 'error',
      'no-restricted-syntax': ['error', noErrorThrown, noEnum, noDefaultExport],
    },
  },
  {
    files: ['src/core/**/*.ts'],
    ignores: ['**/*.test.ts'],
    rules: {
      'no-restricted-globals': ['error', ...impure],
      'no-restricted-properties': [
        'error',
        {
          object: 'Math',
          property: 'random',
          message: 'core/ is pure: take the random number as an argument.',
        },
      ],
    },
  },
  {
    files: ['src/workflows/**/*.ts'],
    ignores: ['**/*.test.ts'],
    rules: {
      '@typescript-eslint/no-restricted-imports': [
        'error',
        {
          patterns: [
            {
              regex: '^(?!@temporalio/(workflow|common)$)[^.]',
              allowTypeImports: true,
              message:
                'Workflow code loads @temporalio/workflow and @temporalio/common only: it is replayed in a sandbox.',
            },
            {
              regex: '^\\.\\./(?!core/|errors/)',
              allowTypeImports: true,
              message:
                'Workflow code loads core/ and errors/ only; of activities and definition it takes types.',
            },
          ],
        },
      ],
    },
  },
  {
    files: ['src/cli/output/**/*.ts', 'scripts/**', 'bench/**/*.ts', 'examples/**/*.ts'],
    rules: { 'no-console': 'off' },
  },
  {
    files: ['**/*.test.ts', 'test/**/*.ts', 'bench/**/*.ts'],
    rules: { 'max-lines-per-function': 'off' },
  },
  {
    files: ['*.config.ts', 'examples/**/*.ts'],
    rules: { 'no-restricted-syntax': ['error', noEnum] },
  },
)
