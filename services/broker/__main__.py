"""`python -m services.broker`: see app.py; settings come from OPCOD_* variables."""

from shared.parents import run_module

run_module("services.broker.app")
