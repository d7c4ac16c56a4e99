"""`python -m services.inspector`."""

from shared.parents import run_module

if __name__ == "__main__":
    run_module("services.inspector.app")
