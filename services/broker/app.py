"""Builds the broker from its environment: bus, lease, runner, API."""

import os

from services.broker.api import add_routes
from services.broker.config import load_problems, make_plan
from services.broker.peers import Peers
from services.broker.runner import Runner
from shared.bus.keys import BROKER, JobKindQueues
from shared.bus.leases import HeldLease
from shared.bus.redis import RedisBus
from shared.clock import SystemClock
from shared.config.environment import service_environment
from shared.contracts.heartbeats import Heartbeat
from shared.http import check_binding, create_app
from shared.obs.logging import configure_logging
from shared.serving import Service


def main() -> int:
    raise SystemExit
