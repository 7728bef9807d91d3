#!/usr/bin/env bash
# The rehearsal itself; run.sh starts it, in namespaces for processes and mounts: inside.sh ROOT CACHE WORK [OPTION...]
set -euo pipefail

root=$1 cache=$2 work=$3
shift 3
here=$root/tests/deploy/rehearsal
python=$root/.venv/bin/python
certificates=/etc/ssl/certs/ca-certificates.crt
export TMPDIR=$work/tmp DOCKER_HOST=unix:///run/docker/docker.sock

say() { printf 'rehearsal (%3d s): %s\n' "$SECONDS" "$*" >&2; }
die() { say "error: $*"; exit 1; }
cannot() { say "cannot run here: $*"; exit 77; }
in_network() { nsenter --net="/proc/$(cat /run/docker/pid)/ns/net" "$@"; }
last() { tail -n 3 "$1" | tr '\n' ' '; }

# --- checks of this machine -------------------------------------------------------------------------------------------

start_docker() {
    # Also hides the sockets of a Docker Engine outside.
    mkdir -p /run/docker /run/containerd
    mount -t tmpfs tmpfs /run/docker
    mount -t tmpfs tmpfs /run/containerd
    unshare --net bash -c "ip link set lo up && exec dockerd --host $DOCKER_HOST --data-root '$work/docker' --exec-root /run/docker \
        --pidfile /run/docker/pid --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent /serval-rehearsal" >"$work/dockerd.log" 2>&1 &
    for _ in $(seq 120); do
        docker version >/dev/null 2>&1 && return
        kill -0 $! 2>/dev/null || break
        sleep 0.5
    done
    cannot "dockerd does not start: $(tail -n 1 "$work/dockerd.log")"
}
answers() {  # URL
    for _ in $(seq 30); do
        in_network "$python" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=10)' "$1" && return
        sleep 1
    done
    return 1
}
probe() {  # run a container as hardened as ours that answers on a published port
    tar -C "$tools/bin" -c caddy | docker import --message probe - probe &&
        docker network create probe &&
        docker run --detach --name probe --network probe --publish 127.0.0.1:8099:8099 --read-only --tmpfs /tmp --cap-drop ALL \
            --security-opt no-new-privileges --memory 256m --pids-limit 64 --user 10001:10001 --env XDG_DATA_HOME=/tmp \
            --env XDG_CONFIG_HOME=/tmp probe /caddy respond --listen :8099 --body ok &&
        docker exec probe /caddy version &&
        answers http://127.0.0.1:8099/ &&
        docker rm --force probe && docker network rm probe && docker image rm probe
}
registries() {
    timeout 120 mmdebstrap --simulate --quiet --variant=apt bookworm /dev/null >"$work/registry.log" 2>&1 ||
        cannot "Debian's packages cannot be fetched: $(last "$work/registry.log")"
    timeout 120 "$python" -m uv pip compile --no-cache --quiet --no-deps - <<<hatchling >"$work/registry.log" 2>&1 ||
        cannot "Python's packages cannot be fetched: $(last "$work/registry.log")"
}

mkdir "$TMPDIR"
say "asking what this machine can do"
tools=$("$root/deploy/setup/operator-tools.sh" 2>"$work/tools.log") || cannot "operator-tools.sh could not fetch the programs: $(last "$work/tools.log")"
start_docker
driver=$(docker info --format '{{.Driver}}')
[ "$driver" = overlay2 ] || cannot "no overlay mounts in $cache: Docker would copy every layer ($driver)"
probe >"$work/probe.log" 2>&1 || cannot "Docker cannot run a container: $(last "$work/probe.log")"
[ -e "$certificates" ] || cannot "no $certificates"
registries
[ "${1:-}" != --machine ] || { say "this machine can"; exit 0; }

# --- images -----------------------------------------------------------------------------------------------------------

storage=(buildah --root "$cache/buildah" --runroot "$work/buildah" --storage-driver overlay)
build() {  # tag, context, further arguments
    "${storage[@]}" bud --quiet --layers --isolation chroot --network host --format docker \
        --volume "$certificates:$certificates:ro" --env "SSL_CERT_FILE=$certificates" \
        --tag "localhost/$1" "${@:3}" "$2" >/dev/null
}
build_online() {  # as `build`, with downloads: try twice; an unreachable registry is no failure of ours
    build "$@" || build "$@" || { registries; die "$1 cannot be built"; }
}
load() {  # tag
    "${storage[@]}" push --quiet "localhost/$1" "docker-archive:$work/image.tar:localhost/$1"
    docker load --quiet --input "$work/image.tar" >&2
    rm "$work/image.tar"
}

make_base() {  # name, packages, files to remove at the end
    TMPDIR=$work/unpacked mmdebstrap --quiet --variant=minbase --include="$2" --aptopt='Acquire::Retries "3"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' --customize-hook="cd \"\$1\" && rm -rf $3" bookworm "$work/part-$1.tar" >&2 &&
        mv "$work/part-$1.tar" "$work/$1.tar"
}
base_image() {  # as `make_base`; prints the name of the image, which identifies its contents
    echo "localhost/serval-base-$1:$({ declare -f make_base; echo "$*"; } | sha256sum | cut -c1-12)"
}
is_made() { [ -e "$work/$1.tar" ] || "${storage[@]}" inspect --type image "$(base_image "$@")" >/dev/null 2>&1; }
make_bases() {
    # A tmpfs, because dpkg waits for the disk after each file.
    mkdir "$work/unpacked" && mount -t tmpfs -o size=3g tmpfs "$work/unpacked"
    is_made "${slim[@]}" || make_base "${slim[@]}" & local slim_job=$!
    is_made "${full[@]}" || make_base "${full[@]}" & wait "$slim_job" $!
    umount "$work/unpacked" && rmdir "$work/unpacked"
    is_made "${slim[@]}" && is_made "${full[@]}"
}

say "bases, of Debian packages"
# Debian's conversion to a merged /usr leaves Perl behind.
slim=(slim ca-certificates,python3 "usr/share/perl usr/lib/*/perl usr/lib/*/libperl*")
full=(full ca-certificates,python3,python3-venv,python3-pip,python3-dev,gcc,libc6-dev,libnuma1,util-linux,postgresql,redis-server
    "usr/lib/*/libLLVM*")
make_bases || make_bases || { registries; die "the bases cannot be made"; }
for image in "$(base_image "${slim[@]}")" "$(base_image "${full[@]}")"; do
    name=${image#*base-} name=${name%:*}
    if [ -e "$work/$name.tar" ]; then
        mkdir "$work/base" && mv "$work/$name.tar" "$work/base/"
        printf 'FROM scratch\nADD %s /\n' "$name.tar" > "$work/base/Dockerfile"
        build "${image#localhost/}" "$work/base"
        rm -r "$work/base"
    fi
    "${storage[@]}" images --format '{{.Name}}:{{.Tag}}' | { grep "serval-base-$name:" || true; } | { grep -v "^$image\$" || true; } |
        xargs --no-run-if-empty "${storage[@]}" rmi >/dev/null
    "${storage[@]}" tag "$image" "localhost/serval-base-$name:1"
done

say "the gateway's image"
gateway=(--file "$root/docker/gateway.Dockerfile" --build-arg BASE=localhost/serval-base-slim:1 --build-arg BUILD_BASE=localhost/serval-base-full:1)
# A separate name keeps the layers of the build in the cache.
build_online serval-gateway-build:1 "$root" "${gateway[@]}" --target build
build serval-gateway:0.1.0 "$root" "${gateway[@]}"

say "the engine's image"
read -r packages programs < <("$python" -c 'import os, torch, uv; print(os.path.dirname(os.path.dirname(torch.__file__)), os.path.dirname(uv.find_uv_bin()))')
# The packages are mounted under the name that setup.sh gives them, during the build and at run time.
cat > "$work/Dockerfile" <<'END'
FROM localhost/serval-base-full:1
COPY requirements.lock /tmp/
RUN python3 -m venv --without-pip /opt/packages && touch /opt/packages/.complete && mkdir /opt/serval-packages \
    && ln -s /opt/packages "/opt/serval-packages/venv-$({ python3.11 --version; cat /tmp/requirements.lock; } | sha256sum | cut -c1-12)"
END
build serval-base-engine:1 "$root" --file "$work/Dockerfile"
# Kernels are compiled in the check, one of them; all take minutes.
build_online serval-engine:0.1.0 "$root" --file "$root/docker/engine.Dockerfile" --build-arg BASE=localhost/serval-base-engine:1 \
    --build-arg CUDA_ARCHITECTURES= --volume "$packages:/opt/packages/lib/python3.11/site-packages:ro" \
    --volume "$programs/uv:/opt/packages/bin/uv:ro"

say "an image with the others: Caddy, Prometheus, Alertmanager, PostgreSQL, Redis"
mkdir "$work/tools"
cp "$tools"/bin/{caddy,prometheus,promtool,alertmanager,amtool} "$tools"/templates/*.tmpl "$here"/{pager.py,postgres.sh} "$work/tools/"
cat > "$work/tools/Dockerfile" <<'END'
FROM localhost/serval-base-full:1
COPY . /usr/local/bin/
RUN mkdir -p /usr/share/prometheus/alertmanager && mv /usr/local/bin/*.tmpl /usr/share/prometheus/alertmanager/ \
    && useradd --uid 999 --non-unique --no-create-home runs-postgres && mkdir -p /var/lib/postgresql/data /redis \
    && chown 999:999 /var/lib/postgresql/data /redis
ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin
END
build serval-tools:1 "$work/tools"
# Leftovers of earlier runs: images of other sources, and containers of killed builds.
"${storage[@]}" rm --all >/dev/null
"${storage[@]}" rmi --prune --force >/dev/null
[ "${1:-}" != --images ] || { say "images are built"; exit 0; }

say "images into the Docker Engine"
for image in serval-gateway:0.1.0 serval-engine:0.1.0 serval-tools:1; do load "$image"; done
size=$(docker image inspect --format '{{.Size}}' localhost/serval-gateway:0.1.0)
say "the gateway's image has $((size / 1000000)) MB"
[ "$size" -lt 260000000 ] || die "more than 260 MB"

# --- the stack --------------------------------------------------------------------------------------------------------

# The repository's rules and routes, with alerts that do not wait and a container as pager.
mkdir "$work/monitoring"
cp -r "$root/deploy/prometheus" "$root/deploy/alertmanager" "$work/monitoring/"
sed -i 's/\bfor: [0-9]*m$/for: 0s/' "$work"/monitoring/prometheus/rules/*.yml
sed -i 's/scrape_interval: 15s/scrape_interval: 5s/; s/evaluation_interval: 15s/evaluation_interval: 5s/; s/scrape_timeout: 10s/scrape_timeout: 5s/' "$work/monitoring/prometheus/prometheus.yml"
sed -i 's|http://pager.invalid/|http://pager:8080/|; s/group_wait: [0-9]*s/group_wait: 0s/' "$work/monitoring/alertmanager/alertmanager.yml"

say "bringing the stack up"
random() { "$python" -c 'import secrets; print(secrets.token_hex(20))'; }
(umask 0022 && mkdir -p "$work/secrets" && echo "sk-rehearsal-$(random)" > "$work/secrets/api_keys")
REHEARSAL_PICTURES=${2:-} POSTGRES_PASSWORD=$(random) SERVAL_ENGINE_API_KEY=$(random) GRAFANA_ADMIN_PASSWORD=$(random)
export COMPOSE_PROFILES=cpu-demo,monitoring SERVAL_KEYS_FILE=$work/secrets/api_keys REHEARSAL_MONITORING=$work/monitoring \
    REHEARSAL_PACKAGES=$packages REHEARSAL_PROGRAMS=$programs REHEARSAL_PICTURES POSTGRES_PASSWORD \
    SERVAL_ENGINE_API_KEY GRAFANA_ADMIN_PASSWORD
compose=("$tools/bin/docker-compose" --file "$root/docker/compose.yaml" --file "$here/compose.yaml" --env-file "$root/docker/.env.example")
failed() { "${compose[@]}" ps --all >&2; "${compose[@]}" logs --tail 40 >&2; die "$*"; }
"${compose[@]}" up --detach --wait --wait-timeout 900 --no-build --quiet-pull 2>"$work/up.log" || { cat "$work/up.log" >&2; failed "the stack does not come up"; }
say "up; checking"
PYTHONPATH=$root/tests/support in_network "$python" "$here/check.py" "${compose[@]}" || failed "a check failed"
say "passed"
