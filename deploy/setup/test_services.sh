#!/usr/bin/env bash
# Installs what tests run beside the server, PostgreSQL, if it is missing and this may install packages (root on a
# Debian). Never fails: without it, the tests that need it are skipped and say so.
set -uo pipefail

say() { printf 'setup: %s\n' "$*" >&2; }

if ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null 2>&1; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    say "PostgreSQL is not installed; tests that need it will be skipped"
    exit 0
fi

say "installing PostgreSQL for the tests"
# The tests start a server of their own; the package shall not make and start another.
mkdir -p /etc/postgresql-common
[ -e /etc/postgresql-common/createcluster.conf ] ||
    echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf
export DEBIAN_FRONTEND=noninteractive
install() { timeout 180 apt-get install -qq -y --no-install-recommends postgresql >/dev/null 2>&1; }
install || { timeout 120 apt-get update -qq >/dev/null 2>&1; install; } ||
    say "PostgreSQL could not be installed; tests that need it will be skipped"
exit 0
