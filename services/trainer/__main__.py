"""`python -m services.trainer`: settings come from OPCOD_* variables; see app.py."""

from services.trainer.app import main
from shared.parents import run_service

run_service(main)
