#!/usr/bin/env bash
# Starts docker/compose.yaml with the real engine where no image registry can be reached, and checks it. Base images are
# made from Debian packages, both images are built from their Dockerfiles, a Docker Engine runs in its own namespaces.
#
#   tests/deploy/rehearsal/run.sh     (as root, after `make setup`; leaves only a cache behind, however it ends)
#
# --missing prints the Debian packages that are not installed; --machine ends after the checks of this machine, --images
# after the images are built; --pictures FOLDER draws the dashboards there under load.
#
# Exits with 77 on a machine that cannot do this, before anything of ours runs; the last line says why. Two things differ
# from production: the engine's 11 GB of locked packages are mounted from the cache of `make setup` instead of copied into
# the image, and Grafana is left out, because its image cannot be made here.
#
# This file makes the quick checks and clears up; inside.sh starts everything.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
cache=${SERVAL_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/serval}/rehearsal
work=$cache/running
# Folder of dockerd and iptables, which is not on every root's path.
export PATH=$PATH:/usr/sbin:/sbin
# Half as much again as a run with an empty cache takes (docker/README.md).
disk_gb=6
memory_gb=8

say() { printf 'rehearsal: %s\n' "$*" >&2; }
cannot() { say "cannot run here: $*"; exit 77; }

case "${1:-}" in
    "" | --missing | --machine | --images) [ $# -le 1 ] || { say "$1 takes no argument"; exit 2; } ;;
    --pictures) pictures=$(realpath "${2:?--pictures needs a folder}") && mkdir -p "$pictures" && set -- --pictures "$pictures" ;;
    *) say "unknown option $1; there are --missing, --machine, --images and --pictures FOLDER"; exit 2 ;;
esac

missing=()
for pair in dockerd:docker.io docker:docker.io buildah:buildah mmdebstrap:mmdebstrap iptables:iptables ip:iproute2; do
    command -v "${pair%:*}" >/dev/null || [[ " ${missing[*]} " = *" ${pair#*:} "* ]] || missing+=("${pair#*:}")
done
[ "${1:-}" != --missing ] || { echo "${missing[@]}"; exit 0; }
[ "$(uname)" = Linux ] || cannot "needs Linux"
[ "$(id -u)" = 0 ] || cannot "needs root, for namespaces and mounts; as root, tests/deploy/rehearsal/run.sh runs it"
[ "${#missing[@]}" = 0 ] || cannot "not installed: ${missing[*]} (Debian packages; \`make test\` as root installs them)"
[ -x "$root/.venv/bin/python" ] || cannot "no .venv; \`make setup\` makes it"
"$root/.venv/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    cannot "the packages of .venv are not for Python 3.11, which Debian's base has"
isolated=(unshare --mount --pid --fork --kill-child --mount-proc)
problem=$("${isolated[@]}" --net true 2>&1) || cannot "mount, process and network namespaces are not allowed: $problem"
free_gb=$(awk '/^MemAvailable:/ {print int($2 / 1000000)}' /proc/meminfo)
[ "$free_gb" -ge "$memory_gb" ] || cannot "$free_gb GB of memory are free, of the $memory_gb GB that it wants"
mkdir -p "$cache"
free_gb=$(df --output=avail -B 1000000000 "$cache" | tail -n 1 | tr -d ' ')
[ "$free_gb" -ge "$disk_gb" ] || cannot "$free_gb GB of disk are free in $cache, of the $disk_gb GB that it wants"

# One rehearsal at a time: the cache holds buildah's storage.
exec 8>"$cache/lock"
flock --timeout 60 8 || cannot "another one is running"

inside=
clean_up() {
    trap '' TERM INT HUP
    if [ -n "$inside" ]; then
        # The end of the first process inside ends all others and their mounts; unshare then returns.
        kill -KILL $(cat "/proc/$inside/task/$inside/children") 2>/dev/null || kill -KILL "$inside" 2>/dev/null || true
        wait "$inside" 2>/dev/null || true
    fi
    remove_leftovers
}
remove_leftovers() {
    rm -rf "$work"
    find /sys/fs/cgroup -depth -type d -path '*/serval-rehearsal*' -exec rmdir {} + 2>/dev/null || true
}
# Leftovers of a run that was killed together with its shell.
remove_leftovers
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir "$work"
# The end of this shell, even by SIGKILL, ends everything it started.
setpriv --pdeathsig KILL "${isolated[@]}" "$here/inside.sh" "$root" "$cache" "$work" "$@" 8>&- &
inside=$!
status=0
wait "$inside" || status=$?
inside=
exit "$status"
