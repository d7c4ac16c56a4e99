"""`opcod keys`: the secrets of a deployment, as files, for containers and clusters."""

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from opcod.local.deployment import ensure_key, ensure_secret, new_password
from shared.files.durable import atomic_write
from shared.files.text import expanded, read_text

PASSWORD_FILE = "redis-password"
ACL_FILE = "redis.acl"

# Services may do what a run needs below its prefix, a health check may ping, and nobody else anything.
RULES = """\
user default off
user opcod on sanitize-payload #{sha256} ~opcod:* &opcod:* +@all -@admin -@dangerous +info +config|get
user probe on nopass -@all +ping
"""


def keys(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", parser=expanded, help="Directory for the files; made if it is missing.")
    ],
) -> None:
    """Make the bearer keys, the password of Redis and its access rules, if they are missing."""
    directory.mkdir(parents=True, exist_ok=True)
    # What is there is kept: services that run already know it.
    password = ensure_secret(directory / PASSWORD_FILE, new_password)
    made = [ensure_key(directory), password, directory / ACL_FILE]
    digest = hashlib.sha256(read_text(password, "the password of Redis").strip().encode()).hexdigest()
    atomic_write(made[-1], RULES.format(sha256=digest).encode())
    made[-1].chmod(0o644)  # it holds no secret, and the server runs as another user
    typer.echo("\n".join(str(path) for path in made))
