"""A keep that is sealed at rest, and what tests look for in its folders."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

from app_loader.plaintext_memory import plaintext_folder
from keep_protocol.keep_api import RunRequest
from keep_protocol.states import AtRest, FileArea
from tests.unit.app_loader.execution_harness import (
    Execution,
    ending,
    spec,
)

SEALED = spec(at_rest=AtRest.SEALED)
OTHER_KEY = base64.b64encode(b"o" * 32).decode()
CANARY = b"canary-5d21c0de"
DATA, OUTPUT, INPUT = FileArea.DATA, FileArea.OUTPUT, FileArea.INPUT


async def once(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def put(keep: Execution, path: str, content: bytes, area: FileArea = DATA) -> None:
    await keep.files.put(area, path, once(content), size=None, digest=None)


async def get(keep: Execution, path: str, area: FileArea = DATA) -> bytes:
    async with aclosing(keep.files.open(area, path)) as content:
        return b"".join([chunk async for chunk in content])


async def write(keep: Execution, path: str, text: str) -> None:
    assert ending(await keep.run(RunRequest(args=(path, text)))).code == 0


def on_disk(state: Path, content: bytes) -> list[Path]:
    return [path for path in state.rglob("*") if path.is_file() and content in path.read_bytes()]


def plaintext(state: Path) -> list[Path]:
    folder = plaintext_folder(state)
    assert folder is not None
    return list(folder.rglob("*"))
