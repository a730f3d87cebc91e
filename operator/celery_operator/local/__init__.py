"""The cluster on one machine: the same resources and services, with workers as subprocesses. An entry point."""
