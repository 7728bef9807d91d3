#!/usr/bin/env bash
# Installs what tests run beside the server, PostgreSQL, Redis and a clock that can be set (libfaketime), if it is missing
# and this may install packages (root on a Debian). Never fails: tests that need what is missing are skipped and say so.
set -uo pipefail

say() { printf 'setup: %s\n' "$*" >&2; }

missing=()
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null 2>&1 || missing+=(postgresql)
ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || missing+=(libfaketime)
command -v redis-server >/dev/null 2>&1 || missing+=(redis-server)
[ "${#missing[@]}" = 0 ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    say "not installed: ${missing[*]}; tests that need them will be skipped"
    exit 0
fi

say "installing for the tests: ${missing[*]}"
# The tests start servers of their own; the packages shall not make and start others.
mkdir -p /etc/postgresql-common
[ -e /etc/postgresql-common/createcluster.conf ] ||
    echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf
# Debian asks this program whether a package may start its service; where there is one, it stays.
if [ ! -e /usr/sbin/policy-rc.d ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
fi
export DEBIAN_FRONTEND=noninteractive
install() { timeout 180 apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1; }
install || { timeout 120 apt-get update -qq >/dev/null 2>&1; install; } ||
    say "could not be installed: ${missing[*]}; tests that need them will be skipped"
exit 0
