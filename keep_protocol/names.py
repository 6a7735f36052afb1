"""The shapes of ids and names, so that neither can be taken for the other or for a path."""

from __future__ import annotations

import os
import re

# Not compiled here: a keep imports this at its start, and checks none of them.
_KEEP_ID = r"[0-9a-f]{16}"
_DEPLOYMENT_ID = r"[0-9a-f]{8}"
_KEEP_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"

NAME_PATTERN = rf"^(?!{_KEEP_ID}$)(?!.*\.\.){_KEEP_NAME}$"
"""The same as `NAME_RULE`, for JSON Schema."""

NAME_RULE = "1 to 63 of A-Z a-z 0-9 . _ -, a letter or digit first and last, no '..', not 16 hex digits"


def new_keep_id() -> str:
    """A random keep id: 16 hex digits."""
    return os.urandom(8).hex()


def new_deployment_id() -> str:
    """A random deployment id: 8 hex digits."""
    return os.urandom(4).hex()


def is_keep_id(text: str) -> bool:
    """Whether `text` has the shape of a keep id."""
    return re.fullmatch(_KEEP_ID, text) is not None


def is_deployment_id(text: str) -> bool:
    """Whether `text` has the shape of a deployment id."""
    return re.fullmatch(_DEPLOYMENT_ID, text) is not None


def is_keep_name(text: str) -> bool:
    """Whether `text` may name a keep: see `NAME_RULE`."""
    return re.fullmatch(_KEEP_NAME, text) is not None and ".." not in text and not is_keep_id(text)


_MACHINE_SUFFIX = "-vm"


def instance_name(deployment: str, keep_id: str, *, machine: bool = False) -> str:
    """What stands behind the `@` of a keep's unit. It says of which template: machines have one of their own."""
    return f"{deployment}-{keep_id}{_MACHINE_SUFFIX if machine else ''}"


def is_machine_instance(instance: str) -> bool:
    """Whether the keep of this unit is a virtual machine."""
    return instance.endswith(_MACHINE_SUFFIX)


def keep_of_instance(instance: str) -> tuple[str, str]:
    """The deployment and the id of the keep whose unit has this instance name."""
    deployment, _, keep_id = instance.removesuffix(_MACHINE_SUFFIX).partition("-")
    return deployment, keep_id


def unit_name(instance: str) -> str:
    """The unit of an instance."""
    template = "keep-vm" if is_machine_instance(instance) else "keep"
    return f"{template}@{instance}.service"


def instance_of_unit(unit: str) -> str | None:
    """The instance of a keep's unit; None for any other unit."""
    for template in ("keep@", "keep-vm@"):
        if unit.startswith(template) and unit.endswith(".service"):
            return unit.removeprefix(template).removesuffix(".service")
    return None
