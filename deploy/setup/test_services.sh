#!/usr/bin/env bash
# Installs the services of the tests if they are missing and packages may be installed (root on a Debian): PostgreSQL,
# Redis, a settable clock (libfaketime), nginx, Node and a JDK for other clients, a browser; with --rehearsal also a
# Docker Engine and tools that make images without an image registry. Also the coding agents, which need no root. Never
# fails: tests of missing services are skipped and say so.
set -uo pipefail

say() { printf 'setup: %s\n' "$*" >&2; }

prepare() {
    # Tests start their own servers; the packages must not create and start others.
    mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf
    # Debian asks this program if a package may start its service; an existing one stays.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d
    fi
}
install() {  # packages; those of one call are installed together or not at all
    [ $# = 0 ] && return
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        say "not installed: $*; tests that need them will be skipped"
        return
    fi
    say "installing for the tests: $*"
    prepare
    apt_install "$@" || { timeout 120 apt-get update -qq >/dev/null 2>&1; apt_install "$@"; } ||
        say "could not be installed: $*; tests that need them will be skipped"
}
apt_install() {
    DEBIAN_FRONTEND=noninteractive timeout 180 apt-get install -qq -y --no-install-recommends "$@" >/dev/null 2>&1
}

missing=()
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null 2>&1 || missing+=(postgresql)
ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || missing+=(libfaketime)
command -v redis-server >/dev/null 2>&1 || missing+=(redis-server)
command -v nginx >/dev/null 2>&1 || [ -x /usr/sbin/nginx ] || missing+=(nginx-light)
install "${missing[@]}"
missing=()
{ command -v node && command -v npm; } >/dev/null 2>&1 || missing+=(nodejs npm)
install "${missing[@]}"
missing=()
{ command -v java && command -v javac; } >/dev/null 2>&1 || missing+=(default-jdk-headless)
install "${missing[@]}"
missing=()
{ command -v chromium-headless-shell || command -v chromium; } >/dev/null 2>&1 ||
    missing+=(chromium-headless-shell fonts-dejavu-core)
install "${missing[@]}"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
"$root/deploy/setup/setup.sh" --agents >/dev/null ||
    say "the coding agents could not be installed; tests that need them will be skipped"

if [ "${1:-}" = --rehearsal ]; then
    read -ra missing < <("$root/tests/deploy/rehearsal/run.sh" --missing)
    install "${missing[@]}"
fi
exit 0
