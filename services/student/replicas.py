"""Which other replica of this student gets a job whose version this one cannot load. Pure.

What always holds: a job is never given to who refused it before, nor to who is not up, so that it goes round once at
most and then fails.
"""

from collections.abc import Collection, Sequence
from zlib import crc32

from shared.contracts.heartbeats import Heartbeat
from shared.contracts.jobs import Job


def consumer_name(student: str, replica: str) -> str:
    """Of a replica on its student's queues."""
    return f"student-{student}-{replica}"


def next_replica(job: Job, beats: Sequence[Heartbeat], refused_by: Collection[str]) -> str | None:
    """Consumer name of a replica that is up and is not in `refused_by`; of those that hold the job's version, if any
    do. Jobs are spread over them by their ids. None: nobody is left."""
    up = {
        consumer_name(job.student, beat.replica): job.version in beat.versions
        for beat in beats
        if beat.service == f"student-{job.student}" and beat.state != "draining"
    }
    left = sorted(name for name in up if name not in refused_by)
    choice = [name for name in left if up[name]] or left
    return choice[crc32(job.id.encode()) % len(choice)] if choice else None
