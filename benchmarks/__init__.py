"""Measurements of phiserve on real hardware, and of its planner. `python -m benchmarks` lists them."""
