"""`python -m services.trainer`: settings come from OPCOD_* variables; see app.py."""

from shared.parents import run_module

run_module("services.trainer.app")
