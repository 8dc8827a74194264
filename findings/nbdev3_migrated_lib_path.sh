#!/usr/bin/env bash
# nbdev 3.3.26: nbdev-migrate-config drops lib_path, so the next export goes to another folder.
#
# Guess: a project whose package (areas) is named otherwise than its distribution (area-tools) keeps exporting to areas/.
# Seen: the new [tool.nbdev] has no lib_path; nbdev-export makes one of the distribution's name. It writes area_tools/,
# exits with 0, and areas/, which is still what gets packaged and imported, keeps yesterday's code.
# Output:
#   exit code of nbdev-export: 0
#   areas/square.py:      return 4 * side
#   area_tools/square.py: return side**2
#   packaged: ['areas']
set -euo pipefail
work="$(mktemp -d)"; trap 'rm -rf "$work"' EXIT; cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q nbdev==3.3.26 fastcore==2.2.41 execnb==0.3.4

mkdir -p project/nbs project/areas && cd project
cat > settings.ini <<'INI'
[DEFAULT]
repo = area-tools
lib_name = area-tools
lib_path = areas
nbs_path = nbs
user = someone
author = Some One
author_email = someone@example.org
description = Areas of shapes
version = 0.2.0
license = mit
INI
printf 'def area(side):\n    return 4 * side\n' > areas/square.py # the export before the notebook was mended
../venv/bin/python - <<'PY'
import json
cells = ["#| default_exp square", "#| export\ndef area(side):\n    return side**2"]
cells = [dict(cell_type="code", id=f"c{k}", metadata={}, outputs=[], execution_count=None, source=c)
         for k, c in enumerate(cells)]
with open("nbs/square.ipynb", "w") as f:
    json.dump(dict(nbformat=4, nbformat_minor=5, metadata={}, cells=cells), f)
PY

../venv/bin/nbdev-migrate-config > /dev/null
../venv/bin/nbdev-export
echo "exit code of nbdev-export: $?"
old="$(grep -h return areas/square.py)" new="$(grep -h return area_tools/square.py)"
packaged="$(../venv/bin/python -c 'import tomllib
print(tomllib.load(open("pyproject.toml", "rb"))["tool"]["setuptools"]["packages"]["find"]["include"])')"
echo "areas/square.py:      ${old##    }"
echo "area_tools/square.py: ${new##    }"
echo "packaged: $packaged"
[[ "$old" == *"4 * side" && "$new" == *"side**2" && "$packaged" == "['areas']" ]] || { echo changed; exit 1; }
