"""The table `[machines]`: what it may say, and what keeps could not use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keep_manager.errors import ConfigurationError
from keep_manager.machines.settings import DEFAULT_OVERHEAD, MachineSettings, parse_machines


def test_without_it_things_are_where_debian_puts_them() -> None:
    assert parse_machines({}) == MachineSettings()
    assert MachineSettings().qemu == Path("/usr/bin/qemu-system-x86_64")


def test_what_it_says_goes_before() -> None:
    found = parse_machines({"qemu": "/opt/qemu/bin/qemu", "image": "/srv/image", "overhead": "1G"})
    assert (found.qemu, found.image, found.overhead) == (Path("/opt/qemu/bin/qemu"), Path("/srv/image"), 2**30)
    assert found.swtpm == MachineSettings().swtpm
    assert MachineSettings().overhead == DEFAULT_OVERHEAD


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"qemu": "qemu-system-x86_64"}, "`machines.qemu` is 'qemu-system-x86_64', not an absolute path"),
        ({"image": 1}, "`machines.image` is 1"),
        ({"firmware": ""}, "`machines.firmware` is ''"),
        ({"overhead": "much"}, "'much' is not a size"),
        ({"qemu": "/home/qemu"}, "which keeps do not see"),
        ({"mke2fs": "/home/mke2fs"}, "which keeps do not see"),
        ({"swtpm": "/tmp/swtpm"}, "which keeps do not see"),
    ],
)
def test_what_cannot_work_is_refused_with_its_name(table: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_machines(table)
    assert complaint in str(caught.value)
