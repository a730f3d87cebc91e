"""What users write and read: one pydantic model per kind, conditions and their reasons. Pure; imports only pydantic."""

GROUP = "celery-operator.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
