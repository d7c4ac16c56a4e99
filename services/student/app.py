"""A student put together: bus, leases, engine thread, heartbeat thread and HTTP app.

The engine is built in its own thread, so that the probes answer from the start; only what the run's engine needs
is imported, so a scripted student starts without torch.
"""

import threading

from fastapi import FastAPI

from services.student.api import StudentApi, student_routes
from services.student.board import Board
from services.student.config import ScriptEnvironment, StudentConfig, student_config
from services.student.engines.port import Engine
from services.student.engines.scripted import Script, ScriptedEngine
from services.student.intake import JobIntake
from services.student.interactive import InteractiveQueue
from services.student.loader import WeightLoader
from services.student.outbox import Outbox
from services.student.presence import Presence
from services.student.room import Room
from services.student.running import Running
from services.student.versions import VersionKeeper
from services.student.worker import EngineWorker
from shared.bus.leases import LeaseKeeper
from shared.bus.port import Bus
from shared.bus.redis import RedisBus
from shared.clock import Clock, SystemClock
from shared.config.environment import service_environment
from shared.http import create_app
from shared.obs.logging import configure_logging
from shared.problems.loading import load_problem_set
from shared.serving import Service

from services.student.config import INTERACTIVE_BOUND
