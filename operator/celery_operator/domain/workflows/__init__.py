"""Workflows: a spec becomes a graph; graph, state and what was observed become a plan; all of it becomes a status."""
