"""`python -m services.student`."""

from services.student.app import main
from shared.parents import run_service

run_service(main)
