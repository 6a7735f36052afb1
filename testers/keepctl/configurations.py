"""`keepctl init`, and `--config`: files that say how a workload is run."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from keep_client import InvalidArgumentError
from keep_client.configuration_file import ConfigurationFile, read_configuration
from keep_client.configuration_file.features import feature_named
from keep_protocol.network_policy import NO_NETWORK, NetworkPolicy
from keep_protocol.spec import Limits
from keep_protocol.states import WasmFeature
from keep_protocol.workload_configuration import WorkloadConfiguration
from testers.keepctl.command import add_command
from testers.keepctl.configuration_template import TEMPLATE
from testers.keepctl.console import say

if TYPE_CHECKING:
    from testers.keepctl.command import Subparsers


def register(subparsers: Subparsers) -> None:
    """Declare this command."""
    init = add_command(
        subparsers,
        "init",
        "write a commented Keep.toml",
        _init,
        examples=("keepctl init", "keepctl init server/Keep.toml"),
        details="A file that exists is left alone. As it is written it changes nothing of how a workload is run.",
    )
    init.add_argument(
        "file", metavar="FILE", type=Path, nargs="?", default=Path("Keep.toml"), help="default: Keep.toml"
    )


def add_configuration_option(
    parser: argparse.ArgumentParser, text: str = "how the workload is run (keepctl init), or an Enarx.toml"
) -> None:
    """`--config`, for commands that load or run a workload."""
    parser.add_argument("--config", metavar="FILE", type=Path, help=text)


def add_feature_option(parser: argparse.ArgumentParser) -> None:
    """`--feature`, for commands that make a keep for a workload."""
    parser.add_argument(
        "--feature",
        metavar="NAME",
        action="append",
        default=[],
        help=f"let the workload have {', '.join(sorted(WasmFeature))} of WebAssembly",
    )


def with_features(configured: ConfigurationFile | None, names: Sequence[str]) -> ConfigurationFile | None:
    """What is configured, with these features besides. Raises `InvalidArgumentError`."""
    if not names:
        return configured
    configured = configured or ConfigurationFile(WorkloadConfiguration(), NO_NETWORK)
    try:
        wanted = (*configured.configuration.features, *map(feature_named, names))
    except ValueError as error:
        raise InvalidArgumentError(f"--feature: {error}") from None
    features = tuple(sorted(set(wanted)))
    return dataclasses.replace(
        configured, configuration=msgspec.structs.replace(configured.configuration, features=features)
    )


def open_configuration(path: Path) -> ConfigurationFile:
    """What a file says; what it may not have meant is told. Raises `InvalidArgumentError`."""
    read = read_configuration(path)
    for warning in read.warnings:
        say(warning)
    return read


def network_for(configured: ConfigurationFile | None) -> NetworkPolicy:
    """What a keep for a workload must be allowed."""
    return NO_NETWORK if configured is None else configured.network


def restarts_runs(configured: ConfigurationFile | None) -> bool:
    """Whether a keep for a workload must start interrupted runs again."""
    return configured is not None and configured.configuration.restart


def limits_for(limits: Limits, configured: ConfigurationFile | None) -> Limits:
    """Enough for what a configuration allows its runs, if that is more."""
    if configured is None:
        return limits
    wanted = configured.configuration.limits
    return msgspec.structs.replace(
        limits,
        memory=max(limits.memory, wanted.memory or 0),
        run_time=max(limits.run_time, wanted.run_time or 0),
        output=max(limits.output, wanted.output or 0),
    )


def _init(options: argparse.Namespace) -> int:
    path: Path = options.file
    try:
        with path.open("x") as file:
            file.write(TEMPLATE)
    except FileExistsError:
        raise InvalidArgumentError(f"{path} exists already: name another file, or remove it") from None
    except OSError as error:
        raise InvalidArgumentError(f"{path} cannot be written: {error.strerror}") from None
    say(f"{path} is written; use it with `keepctl run --config {path} FILE.wasm`")
    return 0
