"""Runs on clusters with SLURM: a job that trains, ends before its limit, and goes on in the next one."""
