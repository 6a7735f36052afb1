"""Files that say how a workload is run: `Keep.toml`, and `Enarx.toml` as Enarx 0.7.1 wrote it."""

from __future__ import annotations

from keep_client.configuration_file.reading import ConfigurationFile, read_configuration

__all__ = ["ConfigurationFile", "read_configuration"]
