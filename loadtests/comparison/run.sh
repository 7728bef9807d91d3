#!/usr/bin/env bash
# Compares Serval's gateway with sglang-router and LiteLLM's proxy in front of the same stand-in, on this machine, and
# writes what it found: the table in loadtests/RESULTS.md, the ratios in README.md, loadtests/comparison/figures.json and
# loadtests/plots/comparison.svg. Ten minutes on two quiet cores.
# Needs Debian's wrk. The first run installs both (700 MB) into the cache folder that `make` uses.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
python=$root/.venv/bin/python
cache=${SERVAL_CACHE_DIR:-$HOME/.cache/serval}

say() { printf 'comparison: %s\n' "$*" >&2; }

command -v wrk >/dev/null || { say "wrk is not installed (Debian: apt-get install wrk)"; exit 2; }
"$root/deploy/setup/setup.sh" >&2

# The folder with the packages of one lock file, installed once.
environment() {
    local lock=$root/loadtests/comparison/$1.lock
    local folder
    folder=$cache/comparison-$1-$(sha256sum < "$lock" | cut -c1-12)
    if [ ! -e "$folder/.complete" ]; then
        say "installing $1 into $folder"
        rm -rf "$folder"
        "$python" -m venv --without-pip "$folder"
        # Compiled now: LiteLLM's first import would take minutes of a measurement.
        UV_CACHE_DIR=$cache/uv "$python" -m uv pip sync --quiet --compile-bytecode --require-hashes \
            --python "$folder/bin/python" "$lock" >&2
        touch "$folder/.complete"
    fi
    echo "$folder"
}

router=$(environment router)
litellm=$(environment litellm)
exec "$python" -m serval_load compare --router-python "$router/bin/python" --litellm-python "$litellm/bin/python" \
    --json "$root/loadtests/comparison/figures.json" --svg "$root/loadtests/plots/comparison.svg" \
    --into "$root/loadtests/RESULTS.md" --ratios-into "$root/README.md" "$@"
