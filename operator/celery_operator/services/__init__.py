"""Verbs: observe, plan, apply, report. What they need from outside are the protocols in ``ports``."""
