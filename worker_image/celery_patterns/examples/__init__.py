"""An application to try workers and workflows with: arithmetic, a word count over real text, and a ledger for tests."""
