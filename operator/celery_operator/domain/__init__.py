"""Decisions, pure: no I/O, no clock, no logger, no framework."""
