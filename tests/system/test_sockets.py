"""Guests with sockets in keeps of a real deployment: through the sandbox, the broker and the keep's own TLS."""

from __future__ import annotations

from pathlib import Path

from tests.system.deployment import Deployment, guest


def test_a_keep_whose_spec_does_not_name_the_port_refuses_the_file(deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "Keep.toml").write_text('[[files]]\nkind = "listen"\nprot = "tcp"\nport = 7000\nname = "web"\n')
    keep = deployment.create()
    loading = ("load", keep["id"], str(guest("sock_lines")), "--config", str(tmp_path / "Keep.toml"))
    refused = deployment.keepctl(*loading, check=False)
    assert refused.returncode != 0
    assert "port 7000" in refused.stderr
    assert deployment.json("show", keep["id"])["keep"]["state"] == "ready"
    deployment.keepctl("rm", keep["id"])
