"""Write genmix/published/quickdraw.json: QuickDraw's categories with the checksums that Google
publishes for them.

    python tools/quickdraw_checksums.py MD5SUMS

MD5SUMS is a text file with one line for each file of the official bucket, such as "ad9a91...
simplified/cat.ndjson".
"""

import hashlib
import json
import re
import sys
from pathlib import Path

KINDS = {"numpy_bitmap": "npy", "simplified": "ndjson"}


def main(path):
    raw = Path(path).read_bytes()
    categories = {}
    for line in raw.decode().splitlines():
        if m := re.fullmatch(r"([0-9a-f]{32})\s+(\w+)/(.+)\.(\w+)", line.strip()):
            md5, kind, category, ending = m.groups()
            if KINDS.get(kind) == ending:
                categories.setdefault(category, {})[kind] = md5
    complete = {c: m for c, m in sorted(categories.items()) if set(m) == set(KINDS)}
    provenance = {
        "data": "md5 of the official files of Quick, Draw! (Google, CC BY 4.0), as published in "
        "its storage bucket",
        "sha256": hashlib.sha256(raw).hexdigest(),
        "command": "python tools/quickdraw_checksums.py MD5SUMS",
    }
    out = Path(__file__).resolve().parent.parent / "genmix" / "published" / "quickdraw.json"
    out.write_text(
        json.dumps({"provenance": provenance, "categories": complete}, indent=0) + "\n",
        encoding="utf-8",
    )
    print(f"{out.name}: {len(complete)} categories")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) == 2 else __doc__)
