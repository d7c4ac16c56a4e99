"""`python -m services.student`."""

from services.student.app import main
from shared.http.serving import run_service

run_service(main)
