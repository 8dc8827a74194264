#!/usr/bin/env bash
# nbdev 3.3.26: the wheel of a project migrated with nbdev-migrate-config lacks every subpackage.
#
# Guess: a wheel built after the migration holds what the one before it held.
# Seen: the new pyproject.toml says `[tool.setuptools.packages.find] include = ["shapes"]`. setuptools matches whole
# names, so shapes.flat is left out; the build succeeds. The old pyproject.toml is overwritten, not merged: its
# [tool.ruff] is gone. Of the extras in settings.ini `dev` is kept, `plot` is not.
# Output:
#   before: ['shapes/__init__.py', 'shapes/flat/__init__.py', 'shapes/flat/square.py'] extras: ['dev', 'plot']
#   after:  ['shapes/__init__.py'] extras: ['dev'] [tool.ruff]: gone
set -euo pipefail
work="$(mktemp -d)"; trap 'rm -rf "$work"' EXIT; cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q nbdev==3.3.26 fastcore==2.2.41 execnb==0.3.4 setuptools==84.2.1

mkdir -p project/shapes/flat && cd project
touch shapes/__init__.py shapes/flat/__init__.py README.md
echo 'def area(side): return side**2' > shapes/flat/square.py
cat > settings.ini <<'INI'
[DEFAULT]
repo = shapes
lib_name = shapes
lib_path = shapes
user = someone
author = Some One
author_email = someone@example.org
version = 0.2.0
plot_requirements = matplotlib
dev_requirements = pytest
INI
cat > setup.py <<'PY'
from setuptools import find_packages, setup
setup(name="shapes", version="0.2.0", packages=find_packages(),
      extras_require={"plot": ["matplotlib"], "dev": ["pytest"]})
PY
printf '[tool.ruff]\nline-length = 100\n' > pyproject.toml

wheel() { ../venv/bin/pip wheel -q . --no-deps --no-build-isolation -w "../$1"; rm -rf build ./*.egg-info; }
wheel before
../venv/bin/nbdev-migrate-config > /dev/null
rm settings.ini setup.py # as its message says one may
wheel after

../venv/bin/python - <<'PY'
from pathlib import Path
from zipfile import ZipFile

def read(folder):
    wheel = ZipFile(next(Path("..", folder).glob("*.whl")))
    meta = wheel.read("shapes-0.2.0.dist-info/METADATA").decode().splitlines()
    extras = sorted(line.split()[1] for line in meta if line.startswith("Provides-Extra:"))
    return sorted(n for n in wheel.namelist() if n.endswith(".py")), extras

(before, had), (after, has) = read("before"), read("after")
ruff = "[tool.ruff]" in Path("pyproject.toml").read_text()
print("before:", before, "extras:", had)
print("after: ", after, "extras:", has, "[tool.ruff]:", "kept" if ruff else "gone")
assert len(before) == 3 and had == ["dev", "plot"]
assert after == ["shapes/__init__.py"] and has == ["dev"] and not ruff, "changed"
PY
