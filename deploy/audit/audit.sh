#!/usr/bin/env bash
# Checks before a release: bill of materials, licences, credentials in the tree, known vulnerabilities.
#
#   deploy/audit/audit.sh [FOLDER]     writes sbom.json and licences.tsv there (default dist/audit)
#
# The last step asks public advisory databases and fails where it cannot reach them.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
out=${1:-$root/dist/audit}
python=$root/.venv/bin/python
mkdir -p "$out"

step() { printf 'audit: %s\n' "$*" >&2; }

step "bill of materials: $out/sbom.json"
"$python" "$here/inventory.py" sbom > "$out/sbom.json"
step "licences: $out/licences.tsv"
"$python" "$here/inventory.py" licences > "$out/licences.tsv"
step "credentials in the tree"
"$python" "$here/secrets.py"
step "known vulnerabilities (pip-audit)"
"$python" -m uv tool run pip-audit==2.10.1 --disable-pip --require-hashes --requirement "$root/requirements.lock" \
    2>&1 | tee "$out/vulnerabilities.txt" >&2
if grep -q "could not be audited" "$out/vulnerabilities.txt"; then
    step "error: not every package could be audited; run this where pypi.org or osv.dev can be asked"
    exit 1
fi
