"""`python -m services.inspector`."""

from services.inspector.app import main
from shared.parents import run_service

if __name__ == "__main__":
    run_service(main)
