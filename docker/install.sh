#!/bin/sh
# install.sh PIP-ARGUMENT...: install into /opt/venv what pip is told, and nothing that no process here ever opens. pip is mounted
# while an image is built, and is in none.
set -eu
/opt/tools/bin/pip --python /opt/venv/bin/python install --no-cache-dir "$@"
# Tests and examples of packages, and what programs in C++ are compiled against or tested with.
find /opt/venv -depth -type d \( -name tests -o -name test -o -name sample_data -o -path '*/torch/include' \) -exec rm -r {} +
rm -f /opt/venv/lib/python3*/site-packages/torch/bin/test_* /opt/venv/lib/python3*/site-packages/torch/bin/protoc*
