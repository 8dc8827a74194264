#!/usr/bin/env bash
# ruff 0.17.6 and fastcore 2.2.41: formatting moves a parameter's description to the next parameter.
#
# Guess: a formatter changes white space only, so documentation read from comments stays as it was.
# Seen: where a line with its comment is too long, ruff wraps the type or the default; the comment ends up behind
# the closing bracket. docments looks on the parameter's first line, then at the line above: `size` loses its
# description, and `stride`, which had none, gets it. A wrapped return type loses its own.
# Output:
#   before: {'size': 'height and width of the kernel, in pixels of the grid', 'stride': None, 'return': 'the pictures, and what became of every single one'}
#   after:  {'size': None, 'stride': 'height and width of the kernel, in pixels of the grid', 'return': None}
set -euo pipefail
work="$(mktemp -d)"; trap 'rm -rf "$work"' EXIT; cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q fastcore==2.2.41 ruff==0.17.6

cat > before.py <<'PY'
def conv(
    size: tuple[int, int] = (3, 3),  # height and width of the kernel, in pixels of the grid
    stride: int = 1,
) -> tuple[list[float], dict[str, int]]:  # the pictures, and what became of every single one
    "Slide a kernel over pictures."
PY
cp before.py after.py
venv/bin/ruff format -q --isolated after.py

venv/bin/python - <<'PY'
import ast
from fastcore.docments import docments
import after, before

same = ast.dump(ast.parse(open("before.py").read())) == ast.dump(ast.parse(open("after.py").read()))
old, new = dict(docments(before.conv)), dict(docments(after.conv))
print("before:", old)
print("after: ", new)
assert same and None not in (old["size"], old["return"]) and old["stride"] is None
assert new == {"size": None, "stride": old["size"], "return": None}, "changed"
PY
