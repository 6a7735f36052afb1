"""What the manager sets up for its probe unit and the probe inside relies upon."""

from __future__ import annotations

PROBE_MEMORY = 64 * 1024 * 1024
PROBE_TASKS = 32
PROBE_CPU_PERCENT = 50
"""Limits that the probe unit is given, so that these three can be tried at all."""

PROBE_DEVICE = "device"
"""A device node that everybody may open, bound to this name in the probe's runtime directory."""

OUTSIDE_NAMESPACES = "PROBE_OUTSIDE_NAMESPACES"
"""Environment variable with the namespaces of the systemd that starts the probe."""

PROBED_MACHINE = "PROBE_MACHINE"
"""Environment variable that is set where the directives are those of keep-vm@.service."""

MANAGER_HOME = "PROBE_MANAGER_HOME"
"""Environment variable with the folder that the unit covers."""
