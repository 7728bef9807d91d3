#!/usr/bin/env bash
# Brings docker/compose.yaml up for real where no image registry can be reached, with the real engine, and checks it:
# bases made of Debian packages, both images built from their Dockerfiles, a Docker Engine in namespaces of its own.
#
#   tests/deploy/rehearsal/run.sh     (root, after `make setup`; leaves nothing behind but a cache, however it ends)
#
# --missing prints the Debian packages that are not installed; --machine ends when it is known that this machine can do it,
# --images when the images are built; --pictures FOLDER draws the dashboards there, as they look under load.
#
# Ends with 77 where a machine cannot do this, and its last line says why; that is decided before anything of ours runs.
# Two things are not as in production: the engine's 11 GB of locked packages are mounted from the cache that `make setup`
# filled instead of being copied into the image, and Grafana is left out, because its image cannot be made here.
#
# This file asks what takes no time and clears up; what starts anything is in inside.sh.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
cache=${SERVAL_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/serval}/rehearsal
work=$cache/running
# Where dockerd and iptables are; not every root has it on the path.
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
        # The first process in there takes all others with it, and their mounts; unshare ends when all are gone.
        kill -KILL $(cat "/proc/$inside/task/$inside/children") 2>/dev/null || kill -KILL "$inside" 2>/dev/null || true
        wait "$inside" 2>/dev/null || true
    fi
    remove_leftovers
}
remove_leftovers() {
    rm -rf "$work"
    find /sys/fs/cgroup -depth -type d -path '*/serval-rehearsal*' -exec rmdir {} + 2>/dev/null || true
}
# Of a run that was killed together with this shell.
remove_leftovers
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir "$work"
# Whatever ends this shell, even SIGKILL, ends all that it started.
setpriv --pdeathsig KILL "${isolated[@]}" "$here/inside.sh" "$root" "$cache" "$work" "$@" 8>&- &
inside=$!
status=0
wait "$inside" || status=$?
inside=
exit "$status"
