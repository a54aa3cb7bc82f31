# Sourced by the other scripts: makes .venv with the pinned requirements if need be, activates it.
# PYTHON chooses the interpreter (default python3), VENV another folder.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${VENV:-$ROOT/.venv}"
cd "$ROOT"

stamp="$VENV/.installed-$(cat requirements.txt pyproject.toml setup.py | sha256sum | cut -c1-16)"
if [ ! -e "$stamp" ]; then
  echo "== installing into $VENV (several minutes the first time)"
  [ -x "$VENV/bin/python" ] || {
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
      echo "error: ${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>&1); Python 3.11 or newer" \
        "is needed. Give one with PYTHON=python3.11 before the command." >&2
      exit 1
    }
    "${PYTHON:-python3}" -m venv "$VENV"
  }
  # torch first: the other packages then take the build that is there.
  torch="$(grep '^torch==' requirements.txt)"
  "$VENV/bin/python" -m pip install --disable-pip-version-check -q "$torch"
  "$VENV/bin/python" -m pip install --disable-pip-version-check -q -r requirements.txt
  "$VENV/bin/python" -m pip install --disable-pip-version-check -q --no-deps -e .
  rm -f "$VENV"/.installed-*
  touch "$stamp"
fi
# The environment's own ninja must come first, or DeepSpeed compiles its ops anew.
export PATH="$VENV/bin:$PATH"
export TOKENIZERS_PARALLELISM=false
