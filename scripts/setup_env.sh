#!/usr/bin/env bash
# Makes the project's environment and prints nothing but progress: dependencies in a cache folder outside the clone
# (keyed by the dependency list, so that clones share the 6 GB of torch), the package itself, editable, in ./.venv.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
cache="${PHNET_ENV_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/phnet-monai}"

# dependency tables + interpreter = key; comments and other tables of pyproject.toml do not rebuild anything
key=$("$python" - <<'PY'
import hashlib, pathlib, re, sys
text = pathlib.Path("pyproject.toml").read_text(encoding="utf-8")
tables = re.findall(r"^dependencies = \[.*?^\]|^\[project\.optional-dependencies\].*?(?=^\[)", text, re.S | re.M)
print(hashlib.sha256(("".join(tables) + sys.version + sys.executable).encode()).hexdigest()[:16])
PY
)
deps="$cache/env-$key"
if [ ! -f "$deps/.complete" ]; then
  echo "Installing the dependencies into $deps (once per dependency list; torch takes minutes)" >&2
  mkdir -p "$cache"
  rm -rf "$deps"
  "$python" -m venv "$deps"
  requirements=$("$deps/bin/python" - <<'PY'
import ast, pathlib, re
text = pathlib.Path("pyproject.toml").read_text(encoding="utf-8")
tables = text[text.index("dependencies = ["):text.index("[project.scripts]")]
lists = dict(re.findall(r"^([a-z0-9-]+) = (\[.*?\])\s*$", tables, re.S | re.M))
names = [n for part in lists.values() for n in ast.literal_eval(part)]
print("\n".join(n for n in names if not n.startswith("phnet-monai")))
PY
)
  printf '%s\n' "$requirements" > "$deps/requirements.txt"
  "$deps/bin/python" -m pip install --progress-bar off -r "$deps/requirements.txt"
  touch "$deps/.complete"
fi

if [ ! -x .venv/bin/phnet ] || [ "$(cat .venv/.deps 2>/dev/null)" != "$deps" ] || [ pyproject.toml -nt .venv/.deps ]; then
  rm -rf .venv
  "$python" -m venv .venv
  site=$(.venv/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
  "$deps/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))" > "$site/_phnet_dependencies.pth"
  .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
  echo "$deps" > .venv/.deps
fi
