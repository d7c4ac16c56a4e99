"""An engine of the container tests' own changes the machine's network: it is put back, whatever ends the tests."""

import json
import shutil
import signal
import subprocess
import sys

import pytest

from tests.containers.engine import TABLES

INSIDE = [
    "unshare",
    "--user",
    "--map-root-user",
    "--net",
    "--mount",
    "sh",
    "-c",
    'mount -t sysfs sys /sys && exec "$@"',
]

# A job in a shell's background ignores what a terminal sends, and so do its children until they say otherwise.
CHANGING = """
import signal, subprocess, time
from tests.containers.engine import FORWARDING, ended_in_order, network_kept

signal.signal(signal.SIGINT, signal.default_int_handler)
with ended_in_order(), network_kept():
    for command in ("iptables -P FORWARD DROP", "iptables -t nat -N DOCKER", "ip link add docker0 type bridge"):
        subprocess.run(command.split(), check=True)
    FORWARDING.write_text(str(1 - int(FORWARDING.read_text())))
    print("changed", flush=True)
    time.sleep(600)
"""

LOOKING = """
import json, subprocess, sys
from tests.containers.engine import Network

def look():
    found = Network.now()
    rules = [line.partition(" [")[0] for line in found.rules.splitlines() if not line.startswith("#")]
    return rules, found.forwarding, sorted(found.links)

subprocess.run("iptables -A FORWARD -p sctp -j DROP".split(), check=True)
looks = [look()]
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
assert child.stdout.readline() == "changed\\n", child.stderr.read()
looks.append(look())
child.send_signal(int(sys.argv[2]))
_, told = child.communicate(timeout=60)
looks.append(look())
print(json.dumps([looks, child.returncode, told]))
"""


@pytest.mark.skipif(shutil.which("iptables") is None, reason="needs iptables, which an engine of one's own installs")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_rules_forwarding_and_links_are_as_before_whatever_ends_it(number: signal.Signals) -> None:
    command = [*INSIDE, "inside", sys.executable, "-c", LOOKING, CHANGING, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    (before, changed, after), code, told = json.loads(done.stdout)
    assert code == -signal.SIGINT and "KeyboardInterrupt" in told, told
    assert ":FORWARD DROP" in changed[0] and "docker0" in changed[2] and changed[1] != before[1]
    assert after == [[*before[0], "*nat", *TABLES["nat"].splitlines(), "COMMIT"], *before[1:]]
