"""`python -m services.student`."""

from shared.parents import run_module

run_module("services.student.app")
