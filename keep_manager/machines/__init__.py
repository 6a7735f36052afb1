"""Virtual machines as keeps: what this host has for them, found out by trying, and how it will start them."""

from __future__ import annotations
