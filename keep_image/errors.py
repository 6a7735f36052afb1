"""What can go wrong when an image is built, read, compared or measured."""

from __future__ import annotations


class ImageError(Exception):
    """Base of this package's errors; the message names the file or package and the remedy."""


class PinError(ImageError):
    """The list of pinned packages is not usable."""


class PackageError(ImageError):
    """A pinned package cannot be had, is not the pinned one, or lacks what an image takes from it."""


class BuildError(ImageError):
    """The tools that an image is built with cannot run here, or fail."""


class ImageFileError(ImageError):
    """A file of an image is missing, is damaged, or is not what its manifest says."""


class MeasurementError(ImageError):
    """A measurement cannot be predicted from these files and options."""
