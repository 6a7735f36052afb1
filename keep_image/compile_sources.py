"""Runs in the guest's Python while an image is built: compiles sources to .pyc files that need no source.

`compile_sources.py FOLDER` reads FOLDER/sources.json, a list of file names as they will be in the guest; the source of
the n-th is FOLDER/n.py, what it becomes FOLDER/n.pyc. Imports the standard library alone.
"""

from __future__ import annotations

import importlib.util
import json
import marshal
import sys
from pathlib import Path

_UNCHECKED_HASH = 0b01
"""PEP 552: valid by its hash, which nobody checks; there is no source to check it against."""


def main(folder: Path) -> None:
    for number, name in enumerate(json.loads((folder / "sources.json").read_text())):
        source = (folder / f"{number}.py").read_bytes()
        code = compile(source, name, "exec", dont_inherit=True, optimize=0)
        header = (
            importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH.to_bytes(4, "little") + importlib.util.source_hash(source)
        )
        # Marshalled twice: what a string is interned or referred to from elsewhere for must not show in the bytes.
        content = marshal.dumps(marshal.loads(marshal.dumps(code)))
        (folder / f"{number}.pyc").write_bytes(header + content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
