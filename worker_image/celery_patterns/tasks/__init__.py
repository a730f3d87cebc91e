"""Tasks composed of policies: they keep their promises through ordinary ``delay`` and ``apply_async``."""
