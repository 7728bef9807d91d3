#!/usr/bin/env bash
# Brings docker/compose.yaml up for real where no image registry can be reached, with the real engine, and checks it:
# bases made of Debian packages, both images built from their Dockerfiles, a Docker Engine in a network namespace of its own.
#
#   tests/deploy/rehearsal/run.sh     (root, after `make setup`; leaves nothing behind but a cache)
#
# --images ends when the images are built; --pictures FOLDER draws the dashboards there, as they look under load.
#
# Needs Debian with: docker.io buildah mmdebstrap iptables. Ends with 77 where a machine cannot do this, and says why.
# Two things are not as in production: the engine's 11 GB of locked packages are mounted from the cache that `make setup`
# filled instead of being copied into the image, and Grafana is left out, because its image cannot be made here.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
cache=${SERVAL_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/serval}/rehearsal
certificates=/etc/ssl/certs/ca-certificates.crt
python=$root/.venv/bin/python

say() { printf 'rehearsal (%3d s): %s\n' "$SECONDS" "$*" >&2; }
cannot() { say "cannot run here: $*"; exit 77; }
[ "$(id -u)" = 0 ] || cannot "needs root, for namespaces and mounts"
for program in dockerd buildah mmdebstrap iptables; do
    command -v "$program" >/dev/null || cannot "no $program; apt-get install docker.io buildah mmdebstrap iptables"
done
unshare --net true 2>/dev/null || cannot "network namespaces are not allowed"

export REHEARSAL_PICTURES=
case "${1:-}" in
    "" | --images) ;;
    --pictures) REHEARSAL_PICTURES=$(realpath "${2:?--pictures needs a folder}") && mkdir -p "$REHEARSAL_PICTURES" ;;
    *) say "unknown option $1; there are --images and --pictures FOLDER"; exit 2 ;;
esac

work=$(mktemp -d)
mkdir -p "$cache"
# One rehearsal at a time: the cache holds buildah's storage.
exec 8>"$cache/lock" && flock 8
tools=$("$root/deploy/setup/operator-tools.sh")
export DOCKER_HOST=unix://$work/docker.sock COMPOSE_PROFILES=cpu-demo,monitoring
compose=("$tools/bin/docker-compose" --file "$root/docker/compose.yaml" --file "$here/compose.yaml" --env-file "$root/docker/.env.example")
daemon=

clean_up() {
    if [ -n "$daemon" ]; then
        # Compose wants every variable, also to take the stack down.
        export REHEARSAL_MONITORING=${REHEARSAL_MONITORING:-$work} REHEARSAL_PACKAGES=${REHEARSAL_PACKAGES:-$work}
        "${compose[@]}" down --volumes --timeout 5 >"$work/down.log" 2>&1 || cat "$work/down.log" >&2
        kill "$daemon" && wait "$daemon" || true
    fi
    rm -rf "$work"
}
trap clean_up EXIT

# --- images -----------------------------------------------------------------------------------------------------------

base() {  # packages, what to leave out of it in the end; prints the archive
    local archive; archive=$cache/$(sha256sum <<<"$*" | cut -c1-12).tar
    if [ ! -e "$archive" ]; then
        mmdebstrap --quiet --variant=minbase --include="$1" --dpkgopt='path-exclude=/usr/share/doc/*' \
            --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' \
            --customize-hook="cd \"\$1\" && rm -rf $2" bookworm "$archive.part.tar" >&2
        mv "$archive.part.tar" "$archive"
    fi
    echo "$archive"
}
build() {  # tag, context, further arguments
    buildah --root "$cache/buildah" --runroot "$work/buildah" bud --quiet --layers --isolation chroot --network host \
        --format docker --volume "$certificates:$certificates:ro" --env "SSL_CERT_FILE=$certificates" \
        --tag "localhost/$1" "${@:3}" "$2" >/dev/null
}
load() {  # tag
    buildah --root "$cache/buildah" --runroot "$work/buildah" push --quiet "localhost/$1" "docker-archive:$work/image.tar:localhost/$1"
    docker load --quiet --input "$work/image.tar" >&2
    rm "$work/image.tar"
}

say "bases, of Debian packages"
# Debian's way to a merged /usr leaves all of Perl behind.
base ca-certificates,python3 "usr/share/perl usr/lib/*/perl usr/lib/*/libperl*" > "$work/slim" & slim=$!
full_packages=ca-certificates,python3,python3-venv,python3-pip,python3-dev,gcc,libc6-dev,libnuma1,util-linux,postgresql,redis-server
base "$full_packages" "usr/lib/*/libLLVM*" > "$work/full"
wait "$slim"
for name in slim full; do
    archive=$(cat "$work/$name")
    printf 'FROM scratch\nADD %s /\n' "$(basename "$archive")" > "$work/Dockerfile"
    build "serval-base-$name:1" "$cache" --file "$work/Dockerfile" --ignorefile <(printf '*\n!%s\n' "$(basename "$archive")")
done

say "the gateway's image"
build serval-gateway:0.1.0 "$root" --file "$root/docker/gateway.Dockerfile" \
    --build-arg BASE=localhost/serval-base-slim:1 --build-arg BUILD_BASE=localhost/serval-base-full:1

say "the engine's image"
read -r packages uv < <("$python" -c 'import os, torch, uv; print(os.path.dirname(os.path.dirname(torch.__file__)), uv.find_uv_bin())')
# setup.sh finds its packages in place under the name that it would give them; they are mounted, now and when it runs.
cat > "$work/Dockerfile" <<'END'
FROM localhost/serval-base-full:1
COPY requirements.lock /tmp/
RUN python3 -m venv --without-pip /opt/packages && touch /opt/packages/.complete && mkdir /opt/serval-packages \
    && ln -s /opt/packages "/opt/serval-packages/venv-$({ python3.11 --version; cat /tmp/requirements.lock; } | sha256sum | cut -c1-12)"
END
build serval-base-engine:1 "$root" --file "$work/Dockerfile"
build serval-engine:0.1.0 "$root" --file "$root/docker/engine.Dockerfile" --build-arg BASE=localhost/serval-base-engine:1 \
    --volume "$packages:/opt/packages/lib/python3.11/site-packages:ro" --volume "$uv:/opt/packages/bin/uv:ro"

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
[ "${1:-}" != --images ] || { say "images are built"; exit 0; }

# --- the stack --------------------------------------------------------------------------------------------------------

say "starting a Docker Engine"
unshare --net bash -c "ip link set lo up && exec dockerd --host $DOCKER_HOST --data-root $work/data --exec-root $work/exec \
    --pidfile $work/pid" >"$work/dockerd.log" 2>&1 &
daemon=$!
for _ in $(seq 120); do docker version >/dev/null 2>&1 && break; kill -0 "$daemon" 2>/dev/null || break; sleep 0.5; done
docker version >/dev/null 2>&1 || { daemon=; cannot "dockerd does not start: $(tail -n 3 "$work/dockerd.log")"; }
for image in serval-gateway:0.1.0 serval-engine:0.1.0 serval-tools:1; do load "$image"; done
size=$(docker image inspect --format '{{.Size}}' localhost/serval-gateway:0.1.0)
say "the gateway's image has $((size / 1000000)) MB"
[ "$size" -lt 250000000 ] || { say "error: more than 250 MB"; exit 1; }

# The repository's rules and routes; alerts do not wait, and the pager is a container.
mkdir "$work/monitoring"
cp -r "$root/deploy/prometheus" "$root/deploy/alertmanager" "$work/monitoring/"
sed -i 's/\bfor: [0-9]*m$/for: 0s/' "$work"/monitoring/prometheus/rules/*.yml
sed -i 's/scrape_interval: 15s/scrape_interval: 2s/; s/evaluation_interval: 15s/evaluation_interval: 2s/; s/scrape_timeout: 10s/scrape_timeout: 2s/' "$work/monitoring/prometheus/prometheus.yml"
sed -i 's|http://pager.invalid/|http://pager:8080/|; s/group_wait: [0-9]*s/group_wait: 0s/' "$work/monitoring/alertmanager/alertmanager.yml"

say "bringing the stack up"
(umask 0022 && mkdir -p "$work/secrets" && echo "sk-rehearsal-$(openssl rand -hex 20)" > "$work/secrets/api_keys")
export SERVAL_KEYS_FILE=$work/secrets/api_keys REHEARSAL_MONITORING=$work/monitoring REHEARSAL_PACKAGES=$packages
export POSTGRES_PASSWORD=$(openssl rand -hex 20)
"${compose[@]}" up --detach --wait --no-build --quiet-pull 2>"$work/up.log" || { cat "$work/up.log" >&2; "${compose[@]}" logs --tail 40 >&2; exit 1; }
say "up; checking"
PYTHONPATH=$root/tests/support nsenter --net="/proc/$(cat "$work/pid")/ns/net" "$python" "$here/check.py" "${compose[@]}"
say "passed"
