#!/usr/bin/env bash
# Brings docker/compose.yaml up for real where no image registry can be reached, and checks it: base made of Debian
# packages, gateway image built from its Dockerfile, a Docker Engine in a network namespace of its own.
#
#   tests/deploy/rehearsal/run.sh        (root; three minutes and more; leaves nothing behind but a cached base)
#
# Needs Debian with: docker.io buildah mmdebstrap iptables. SGLang is replaced by rehearsal/engine.py, Grafana is left out.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
cache=${SERVAL_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/serval}/rehearsal
certificates=/etc/ssl/certs/ca-certificates.crt

say() { printf 'rehearsal: %s\n' "$*" >&2; }
[ "$(id -u)" = 0 ] || { say "error: needs root, for namespaces and mounts"; exit 1; }
for program in dockerd buildah mmdebstrap iptables; do
    command -v "$program" >/dev/null || { say "error: no $program; apt-get install docker.io buildah mmdebstrap iptables"; exit 1; }
done

tools=$("$root/deploy/setup/operator-tools.sh")
work=$(mktemp -d)
mkdir -p "$cache"
export DOCKER_HOST=unix://$work/docker.sock COMPOSE_PROFILES=cpu-demo,monitoring
compose=("$tools/bin/docker-compose" --file "$root/docker/compose.yaml" --file "$here/compose.yaml" --env-file "$root/docker/.env.example")
daemon=

clean_up() {
    if [ -n "$daemon" ]; then
        "${compose[@]}" down --volumes --timeout 5 >"$work/down.log" 2>&1 || cat "$work/down.log" >&2
        kill "$daemon" && wait "$daemon" || true
    fi
    rm -rf "$work"
}
trap clean_up EXIT

base() {  # name, packages
    [ -e "$cache/$1.tar" ] && return
    say "making $1 of Debian packages"
    mmdebstrap --quiet --variant=minbase --include="$2" --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        bookworm "$cache/$1.part.tar"
    mv "$cache/$1.part.tar" "$cache/$1.tar"
}
base runtime ca-certificates,python3
base build ca-certificates,python3,python3-venv,python3-pip

say "building the gateway's image"
image() {  # name, archive
    printf 'FROM scratch\nADD %s /\n' "$(basename "$2")" > "$work/Dockerfile"
    buildah bud --quiet --isolation chroot --tag "$1" --file "$work/Dockerfile" "$(dirname "$2")" >/dev/null
}
image localhost/serval-base:1 "$cache/runtime.tar"
image localhost/serval-base-build:1 "$cache/build.tar"
buildah bud --quiet --layers --isolation chroot --network host --format docker \
    --volume "$certificates:$certificates:ro" --env "SSL_CERT_FILE=$certificates" \
    --build-arg BASE=localhost/serval-base:1 --build-arg BUILD_BASE=localhost/serval-base-build:1 \
    --file "$root/docker/gateway.Dockerfile" --tag localhost/serval-gateway:0.1.0 "$root" >/dev/null
buildah push --quiet localhost/serval-gateway:0.1.0 "docker-archive:$work/gateway.tar:localhost/serval-gateway:0.1.0"

say "starting a Docker Engine"
unshare --net bash -c "ip link set lo up && exec dockerd --host $DOCKER_HOST --data-root $work/data \
    --exec-root $work/exec --pidfile $work/pid --storage-driver overlay2" >"$work/dockerd.log" 2>&1 &
daemon=$!
for _ in $(seq 120); do docker version >/dev/null 2>&1 && break; sleep 0.5; done
docker load --quiet --input "$work/gateway.tar"
size=$(docker image inspect --format '{{.Size}}' localhost/serval-gateway:0.1.0)
say "the gateway's image has $((size / 1000000)) MB"
[ "$size" -lt 250000000 ] || { say "error: more than 250 MB"; exit 1; }
mkdir "$work/tools" && cp "$tools"/bin/{caddy,prometheus,promtool,alertmanager,amtool} "$tools"/templates/*.tmpl "$work/tools/"
printf 'FROM localhost/serval-gateway:0.1.0\nUSER root\nCOPY . /usr/local/bin/\nRUN mkdir -p /usr/share/prometheus/alertmanager && mv /usr/local/bin/*.tmpl /usr/share/prometheus/alertmanager/\nENTRYPOINT []\n' > "$work/tools/Dockerfile"
DOCKER_BUILDKIT=0 docker build --quiet --tag localhost/serval-tools:1 "$work/tools" >/dev/null

say "bringing the stack up"
(umask 0022 && mkdir -p "$work/secrets" && echo "sk-rehearsal-$(openssl rand -hex 20)" > "$work/secrets/api_keys")
export SERVAL_KEYS_FILE=$work/secrets/api_keys
"${compose[@]}" up --detach --wait --no-build --quiet-pull 2>"$work/up.log" || { cat "$work/up.log" >&2; "${compose[@]}" logs --tail 20 >&2; exit 1; }
nsenter --net="/proc/$(cat "$work/pid")/ns/net" python3 "$here/check.py" "${compose[@]}"
say "passed"
