"""Following a run's event log into somebody else's tool: a trace collector, or a tracker of experiments.

What always holds: it only reads, and a run neither waits for it nor knows of it.
"""
