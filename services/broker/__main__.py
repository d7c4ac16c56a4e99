"""`python -m services.broker`: see app.py; settings come from OPCOD_* variables."""

from services.broker.app import main
from shared.parents import run_service

run_service(main)
