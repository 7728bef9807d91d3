#!/usr/bin/env bash
# Compares Serval's gateway with sglang-router and LiteLLM's proxy in front of the same stand-in, on this machine. Writes
# the table in loadtests/RESULTS.md, the ratios in README.md, loadtests/comparison/figures.json and
# loadtests/plots/comparison.svg. Takes ten minutes on two quiet cores.
# Needs Debian's wrk. The first run installs all three (800 MB) into the cache folder that `make` uses.
#
# Serval and LiteLLM run on the same interpreter, by default the system's: distributions and the gateway's image have
# Python built with profile-guided optimisation. Without it, as pyenv builds by default, Python is a fifth slower.
# PYTHON=... names another interpreter.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
python=$root/.venv/bin/python
cache=${SERVAL_CACHE_DIR:-$HOME/.cache/serval}

say() { printf 'comparison: %s\n' "$*" >&2; }

command -v wrk >/dev/null || { say "wrk is not installed (Debian: apt-get install wrk)"; exit 2; }
"$root/deploy/setup/setup.sh" >&2

find_interpreter() {
    local candidate
    for candidate in "${PYTHON:-}" /usr/bin/python3.11 /usr/bin/python3.12 "$python"; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
        "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || continue
        command -v "$candidate"
        return
    done
}
interpreter=$(find_interpreter)

# Prints the lock entries of the gateway's packages, as docker/gateway.Dockerfile does.
gateway_lock() {
    local names
    names=$(mktemp)
    (cd "$root" && "$python" -m uv pip compile pyproject.toml --extra oidc --extra otel --extra postgres --extra redis \
        --constraint requirements.lock --no-annotate --no-header --quiet --output-file "$names" >/dev/null)
    "$python" "$root/docker/subset_of_lock.py" "$root/requirements.lock" --names "$names"
    rm -f "$names"
}

# Installs the packages of a lock file once; prints their folder.
environment() {
    local lock=$2
    local folder
    folder=$cache/comparison-$1-$({ "$interpreter" --version; cat "$lock"; } | sha256sum | cut -c1-12)
    if [ ! -e "$folder/.complete" ]; then
        say "installing $1 into $folder"
        rm -rf "$folder"
        "$python" -m uv venv --quiet --python "$interpreter" "$folder"
        # Compile now: LiteLLM's first import would take minutes of a measurement.
        UV_CACHE_DIR=$cache/uv "$python" -m uv pip sync --quiet --compile-bytecode --require-hashes \
            --python "$folder/bin/python" "$lock" >&2
        touch "$folder/.complete"
    fi
    echo "$folder"
}

serval_lock=$(mktemp)
trap 'rm -f "$serval_lock"' EXIT
gateway_lock > "$serval_lock"
serval=$(environment serval "$serval_lock")
router=$(environment router "$root/loadtests/comparison/router.lock")
litellm=$(environment litellm "$root/loadtests/comparison/litellm.lock")
"$python" -m serval_load compare --serval-python "$serval/bin/python" --router-python "$router/bin/python" \
    --litellm-python "$litellm/bin/python" \
    --json "$root/loadtests/comparison/figures.json" --svg "$root/loadtests/plots/comparison.svg" \
    --into "$root/loadtests/RESULTS.md" --ratios-into "$root/README.md" "$@"
