"""Decisions about worker pools: demand, scaling, draining, the plan, the manifests and the report. Pure."""
