"""Fetches one secret from where its source says; each kind's code is imported by the keeps that have such a source."""

from __future__ import annotations

from app_loader.key_release.connector import Connector
from app_loader.key_release.errors import CredentialsError
from app_loader.key_release.proof import Proof
from app_loader.secret_store import SecretStore
from keep_protocol.secret_sources import InstanceCredentials, KbsSource, SecretSource


class Fetcher:
    """Fetches by one keep's proof, over one keep's network."""

    def __init__(self, proof: Proof, connector: Connector, store: SecretStore) -> None:
        self._proof = proof
        self._connector = connector
        self._store = store

    async def fetch(self, source: SecretSource) -> bytearray:
        """The value, whose memory is the caller's to overwrite. Raises `KeyReleaseError`."""
        if isinstance(source, KbsSource):
            from app_loader.key_release.kbs import fetch_from_broker

            return await fetch_from_broker(source, self._proof, self._connector)
        from app_loader.key_release.aws_credentials import decode_credentials, instance_credentials
        from app_loader.key_release.aws_kms import fetch_from_kms

        if isinstance(source.credentials, InstanceCredentials):
            credentials = await instance_credentials(self._connector)
        elif self._store.holds(source.credentials.name):
            credentials = decode_credentials(bytes(self._store.get(source.credentials.name)))
        else:
            raise CredentialsError("the keep has no secret of the name that its `credentials` give yet")
        return await fetch_from_kms(source, credentials, self._proof, self._connector)
