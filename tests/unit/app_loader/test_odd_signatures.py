"""Modules that export functions of types which calls cannot have."""

from __future__ import annotations

from pathlib import Path

import pytest

from keep_protocol.errors import ErrorCode
from tests.unit.app_loader.execution_harness import Execution, execute, refused, wat


@pytest.mark.parametrize("kind", ["v128", "funcref"])
def test_a_function_of_vectors_or_references_is_no_harm_to_the_others(tmp_path: Path, kind: str) -> None:
    odd = f'(func (export "odd") (param i32 {kind}) (result {kind}) unreachable)'

    async def scenario(keep: Execution) -> None:
        await keep.load(wat(f'(module {odd} (func (export "seven") (result i32) (i32.const 7)))'))
        with refused(ErrorCode.FUNCTION_UNSUPPORTED):
            await keep.call("odd", 1, None)
        assert await keep.call("seven") == 7

    execute(tmp_path, scenario)
