"""What a student counts. Labels are kinds and outcomes only, so that their number stays small."""

from prometheus_client import Counter, Gauge, Histogram

from shared.contracts.jobs import JobKind

JOBS = Counter(
    "opcod_student_jobs",
    "Jobs ended, by kind and outcome (ok, failed, exhausted, handed-over, lost, late).",
    ["kind", "outcome"],
)
for _kind in JobKind:
    # At 0 from the start: a series that appears at 1 shows no increase, and the alert on it would not fire.
    JOBS.labels(_kind.value, "exhausted")
TOKENS = Counter("opcod_student_output_tokens", "Tokens sampled, by what for.", ["kind"])
BATCH_SECONDS = Histogram(
    "opcod_student_batch_seconds",
    "Engine time of one group of jobs.",
    buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800),
)
BATCH_SEQUENCES = Histogram(
    "opcod_student_batch_sequences", "Sequences in one group of jobs.", buckets=(1, 4, 8, 16, 32, 64, 128, 256)
)
BATCH_RETRIES = Counter("opcod_student_batch_retries", "Groups whose jobs were run again one by one after an error.")
REQUESTS = Counter(
    "opcod_student_requests", "Interactive requests, by outcome (ok, failed, late, refused, gone).", ["outcome"]
)
ANSWERING = Gauge("opcod_student_answering", "Sequences that the engine works on for people now.")
LOAD_SECONDS = Histogram(
    "opcod_student_version_load_seconds", "Time to verify and load a version.", buckets=(0.05, 0.2, 1, 5, 20, 60, 300)
)
REFUSED = Counter("opcod_student_versions_refused", "Times a version could not be loaded.")
VERSIONS = Gauge("opcod_student_versions", "Versions held.")
