#!/usr/bin/env bash
# Checks the protos: buf's lint, no breaking change against main, and committed stubs that are those of the protos.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin
scratch=$(mktemp -d); trap 'rm -rf "$scratch"' EXIT

"$bin/buf" lint protos
"$bin/buf" format --diff --exit-code protos || { echo 'protos: not in the usual layout; `make protos` mends it' >&2; exit 1; }

# Compared with where this branch left main, as the remote has it or, without a remote, as this clone has it.
main=$(git rev-parse --verify --quiet origin/main || git rev-parse --verify --quiet main || true)
base=$(git merge-base HEAD "$main" 2>/dev/null || echo "$main")
if [ -n "$base" ] && git cat-file -e "$base:protos/buf.yaml" 2>/dev/null; then
  git archive "$base" protos/buf.yaml protos/weft | tar -x -C "$scratch"
  "$bin/buf" breaking protos --against "$scratch/protos"
else
  echo "protos: no earlier protos on main, so nothing that a change could break"
fi

"$bin/python" protos/generate.py "$scratch/gen"
diff -r --exclude=__pycache__ protos/gen "$scratch/gen" >"$scratch/diff" || {
  head -n 20 "$scratch/diff" >&2
  echo 'protos: the committed stubs are not those of the protos; run `make protos` and commit protos/gen' >&2
  exit 1
}
echo "protos: lint, compatibility and stubs are in order"
