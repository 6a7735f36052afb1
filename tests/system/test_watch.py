"""A manager that watches its keeps: one whose code is not what the policy says is an event, and is stopped."""

from __future__ import annotations

import tempfile
from pathlib import Path

from app_loader.attesters.code_measurement import measure_code
from keep_client import Home, ManagerClient, new_spec, principal_of
from keep_protocol.evidence import EvidenceKind
from keep_protocol.manager_api import Event
from keep_protocol.states import KeepRole, KeepState
from tests.system.deployment import Deployment, eventually, one_supervisor


@one_supervisor
def test_what_fails_is_an_event_and_stopped_and_what_holds_lives(supervisor: str) -> None:
    with tempfile.TemporaryDirectory(prefix="wk") as folder:
        deployment = Deployment(Path(folder) / "home", supervisor)
        deployment.init()
        config = deployment.home / "config"
        settings = config / "wasmkeep.toml"
        watch = '[watch]\ninterval = 10\nfailures = 0\naction = "stop"\npolicy = "watch.toml"\n'
        settings.write_text(settings.read_text() + watch)
        # No TPM quote of this machine is known to the policy, and simulated evidence of other code is.
        (config / "watch.toml").write_text(f'[simulated]\nmeasurements = ["{"00" * 32}"]\n')
        deployment.serve()
        try:
            with ManagerClient.from_home(deployment.home) as manager:
                certificate = manager.credentials.certificate.read_text()
                ca = Home(deployment.home).client_ca.read_text()
                owner = principal_of(certificate, [KeepRole.OWNER], client_ca=ca)
                failing = manager.create_keep(new_spec(principals=[owner], evidence=EvidenceKind.SIMULATED))
                pinned = manager.create_keep(new_spec(principals=[owner]))

                def failed() -> Event | None:
                    found = manager.list_events(0).events
                    return next((event for event in found if event.kind == "attestation-failed"), None)

                event = eventually(failed)
                assert (event.keep, event.detail["action"]) == (failing.id, "stop")
                assert f"simulated.measurement: measurement {measure_code().hex()[:16]}" in event.detail["reason"]
                assert eventually(lambda: manager.get_keep(failing.id).keep.state is KeepState.STOPPED)
                assert manager.get_keep(pinned.id).keep.state is KeepState.READY
        finally:
            deployment.down()
