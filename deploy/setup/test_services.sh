#!/usr/bin/env bash
# Installs what tests run beside the server, PostgreSQL and a clock that can be set (libfaketime), if it is missing and
# this may install packages (root on a Debian). Never fails: tests that need what is missing are skipped and say so.
set -uo pipefail

say() { printf 'setup: %s\n' "$*" >&2; }

missing=()
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null 2>&1 || missing+=(postgresql)
ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || missing+=(libfaketime)
[ "${#missing[@]}" = 0 ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    say "not installed: ${missing[*]}; tests that need them will be skipped"
    exit 0
fi

say "installing for the tests: ${missing[*]}"
# The tests start a PostgreSQL of their own; the package shall not make and start another.
mkdir -p /etc/postgresql-common
[ -e /etc/postgresql-common/createcluster.conf ] ||
    echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf
export DEBIAN_FRONTEND=noninteractive
install() { timeout 180 apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1; }
install || { timeout 120 apt-get update -qq >/dev/null 2>&1; install; } ||
    say "could not be installed: ${missing[*]}; tests that need them will be skipped"
exit 0
