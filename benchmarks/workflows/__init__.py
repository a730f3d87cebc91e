"""Time per step, throughput, fan-out, API writes and memory of workflows, beside a bare floor on the same node."""
