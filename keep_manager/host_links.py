"""Where a keep's unit finds the folder that it sees of its manager: one name per instance, so one line in the unit."""

from __future__ import annotations

from pathlib import Path


class HostLinks:
    """Links `hosts/<instance>` below a supervisor's runtime folder, to what a deployment shares with its keeps."""

    def __init__(self, runtime: Path, deployment: str) -> None:
        self._links = runtime / "hosts"
        self._deployment = deployment
        self.shared = runtime / "deployments" / deployment
        """What all keeps of the deployment see."""

    def make(self, instance: str) -> None:
        """Have the link of a keep."""
        link = self._links / instance
        link.parent.mkdir(parents=True, exist_ok=True)
        target = Path("..", "deployments", self._deployment)
        if not link.is_symlink() or link.readlink() != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)

    def remove(self, instance: str) -> None:
        """Remove it."""
        (self._links / instance).unlink(missing_ok=True)
