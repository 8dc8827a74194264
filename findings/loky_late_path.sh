#!/usr/bin/env bash
# joblib 1.6.0 (loky): the second call does not see a folder added to sys.path after the first.
#
# Guess: what can be imported here can be run by Parallel; or else the error names the module.
# Seen: workers get sys.path when they start, and are kept for the next call. A function from a folder added since
# ends in BrokenProcessPool, "Please ensure that the arguments of the function are all picklable", though they are;
# only __cause__ tells that a module was not found. The same call made again works: its workers are new.
# Output:
#   path first:  [1, 4, 9]
#   path later:  BrokenProcessPool, cause names the module: True
#   once more:   [1, 4, 9]
set -euo pipefail
work="$(mktemp -d)"; trap 'rm -rf "$work"' EXIT; cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q joblib==1.6.0

mkdir plugins
echo 'def square(x): return x * x' > plugins/shapes.py
cat > run.py <<'PY'
import pickle, sys
from joblib import Parallel, delayed

def call(f, values):
    try:
        return str(Parallel(n_jobs=2)(delayed(f)(x) for x in values))
    except Exception as e:
        assert "all picklable" in str(e), e
        named = "No module named 'shapes'" in str(e.__cause__)
        return f"{type(e).__name__}, cause names the module: {named}"

late = sys.argv[1] == "late"
if late:
    call(abs, [-1, -2])  # starts workers
sys.path.insert(0, "plugins")
import shapes
assert pickle.loads(pickle.dumps(shapes.square)) is shapes.square
print("path later: " if late else "path first: ", call(shapes.square, [1, 2, 3]))
if late:
    print("once more:  ", call(shapes.square, [1, 2, 3]))
PY
said="$(venv/bin/python run.py first; venv/bin/python run.py late)"
echo "$said"
[ "$said" = "path first:  [1, 4, 9]
path later:  BrokenProcessPool, cause names the module: True
once more:   [1, 4, 9]" ] || { echo changed; exit 1; }
