"""The only code that knows kopf: which changes wake what."""
