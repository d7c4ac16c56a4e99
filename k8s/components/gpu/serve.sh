#!/usr/bin/env bash
# Serves one student's base weights with the vLLM of this container, as `opcod prepare` wrote down in the run's
# `engines`: on a socket that only the student reaches besides. What it compiles outlives the container.
set -euo pipefail

engine="$OPCOD_RUN_DIR/engines/$OPCOD_STUDENT"
trap 'exit 143' TERM # the first process of a container is told to end in vain, unless it listens
until test -f "$OPCOD_RUN_DIR/prepared.json"; do sleep 2; done
trap - TERM
mapfile -t arguments < "$engine.arguments"
mapfile -t variables < "$engine.environment"
rm -f "/data/engines/$OPCOD_STUDENT.sock" # of a life before
exec env VLLM_CACHE_ROOT="/data/compiled/$OPCOD_STUDENT" "${variables[@]}" python3 "${arguments[@]}"
