"""Runs a test once for each TEE."""

from __future__ import annotations

import pytest

from tests.unit.keep_attestation.intel.forge import Tee


@pytest.fixture(params=["tdx", "sgx"])
def tee(request: pytest.FixtureRequest) -> Tee:
    return "tdx" if request.param == "tdx" else "sgx"
