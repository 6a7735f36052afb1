"""Handshakes in which evidence is verified, against the same handshake in which a known certificate is compared."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL, crypto

from app_loader.attesters.simulated import attest
from benchmarks.measurement import Comparison, Omission, Row, Sample, Target, interleaved
from benchmarks.session import Session
from keep_attestation.policy import Policy
from keep_attestation.ratls.peer import ExpectedKeep, verify_peer
from keep_attestation.simulated.policy import SimulatedPolicy
from keep_attestation.snp.policy import SnpPolicy
from keep_attestation.snp.verifier import examine_snp
from keep_attestation.verification import Examiner
from keep_protocol.cmw import build_collection, cmw_extension, encode_endorsements
from keep_protocol.evidence import CMW_OID, Claims, EvidenceKind, encode_claims, report_data
from tests.unit.keep_attestation.snp.forge import MEASUREMENT, FakeAmd, fake_amd

_SIMULATED = Target(Comparison.RATIO, 1.5)
_SNP = Target(Comparison.RATIO, 2.0)
_FLEET = 300
"""Certificates that take turns, more than the 256 that a verifier remembers: each is one never seen."""
_KEEP = "0123456789ab"
_CODE = bytes(32)
_SPEC = bytes(range(32))

Judge = Callable[[bytes], bool]


def measure(session: Session) -> list[Row | Omission]:
    """From the TCP connection to the first byte of a server that has seen our certificate, too."""
    amd = fake_amd(rsa_bits=4096)
    makers: dict[str, Callable[[], bytes]] = {"pinned": _plain, "simulated": _simulated, "snp": partial(_snp, amd)}
    folders = [session.folder / name for name in (*makers, *(f"{name}-fleet" for name in makers))]
    for folder, (make, count) in zip(folders, [(m, n) for n in (1, _FLEET) for m in makers.values()], strict=True):
        folder.mkdir()
        for number in range(count):
            (folder / f"{number:03}.pem").write_bytes(make())
    client = session.folder / "client.pem"
    client.write_bytes(_plain())
    judges = (_is_known(folders[0]), _has_simulated_evidence(), _has_snp_evidence(amd))
    with _server(client, folders) as ports:
        readings = interleaved(
            5 * session.rounds,
            *(
                partial(_handshake, port, client, judge)
                for port, judge in zip(ports, (*judges, _accept_any, *judges[1:]), strict=True)
            ),
        )
    known, simulated, snp, any_known, new_simulated, new_snp = (Sample("ms", values) for values in readings)
    same = "the same server's handshake with its certificate compared with a known one (pyOpenSSL)"
    return [
        Row("handshake with simulated evidence verified, one keep again and again", same, simulated, known, _SIMULATED),
        Row("the same, each certificate never seen before", same, new_simulated, any_known, _SIMULATED),
        Row("handshake with SNP evidence and its chain verified, one keep again and again", same, snp, known, _SNP),
        Row("the same, each certificate never seen before", same, new_snp, any_known, _SNP),
    ]


@contextmanager
def _server(client: Path, folders: list[Path]) -> Iterator[list[int]]:
    command = [sys.executable, "-m", "benchmarks.tls_server", str(client), *map(str, folders)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())
        finally:
            server.stdin.close()


def _handshake(port: int, client: Path, judge: Judge) -> float:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.use_certificate_file(str(client))
    context.use_privatekey_file(str(client))
    # OpenSSL asks twice about a self-signed certificate; the SDK remembers its answer in a handshake, too.
    answer = cache(judge)
    context.set_verify(SSL.VERIFY_PEER, lambda _, certificate, *rest: answer(_der(certificate)))
    started = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        tls = SSL.Connection(context, connection)
        tls.set_tlsext_host_name(b"keep")
        tls.set_connect_state()
        tls.do_handshake()
        # In TLS 1.3 a client is done before the server has looked at its certificate.
        assert tls.recv(1) == b"."
        return (time.perf_counter() - started) * 1000


def _der(certificate: crypto.X509) -> bytes:
    return crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)


def _accept_any(der: bytes) -> bool:
    return bool(hashlib.sha256(der).digest())


def _is_known(folder: Path) -> Judge:
    (file,) = folder.iterdir()
    known = hashlib.sha256(_pem_to_der(file)).digest()
    return lambda der: hashlib.sha256(der).digest() == known


def _pem_to_der(file: Path) -> bytes:
    return x509.load_pem_x509_certificate(file.read_bytes()).public_bytes(serialization.Encoding.DER)


def _has_simulated_evidence() -> Judge:
    return _judge(Policy(simulated=(SimulatedPolicy(measurements=(_CODE.hex(),)),)), None)


def _has_snp_evidence(amd: FakeAmd) -> Judge:
    accepted = SnpPolicy(measurements=(MEASUREMENT.hex(),), allow_any_milan=True)
    return _judge(Policy(snp=(accepted,)), partial(examine_snp, anchors=amd.anchors))


def _judge(policy: Policy, examine: Examiner | None) -> Judge:
    expected = ExpectedKeep(keep=_KEEP, spec_sha256=_SPEC)
    return lambda der: verify_peer(der, policy, expected=expected, examine=examine).accepted


def _plain() -> bytes:
    return _certificate(ec.generate_private_key(ec.SECP256R1()), None)


def _simulated() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    claims = _claims(key, EvidenceKind.SIMULATED)
    return _certificate(key, build_collection(EvidenceKind.SIMULATED, attest(report_data(claims), _CODE), claims))


def _snp(amd: FakeAmd) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    claims = _claims(key, EvidenceKind.SNP)
    chip = amd.vcek()
    chain = encode_endorsements(certificates=[chip.certificate, amd.hierarchy.ask.der, amd.hierarchy.ark.der])
    report = chip.report(report_data=report_data(claims))
    return _certificate(key, build_collection(EvidenceKind.SNP, report, claims, endorsements=chain))


def _claims(key: ec.EllipticCurvePrivateKey, kind: EvidenceKind) -> bytes:
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encode_claims(
        Claims(
            kind=kind,
            backend="process",
            keep=_KEEP,
            spki_sha256=hashlib.sha256(spki).digest(),
            spec_sha256=_SPEC,
            issued_at=int(time.time()),
        )
    )


def _certificate(key: ec.EllipticCurvePrivateKey, collection: bytes | None) -> bytes:
    """Self-signed, with its key, in PEM."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "keep")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=12))
    )
    if collection is not None:
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(CMW_OID), cmw_extension(collection))
        builder = builder.add_extension(extension, critical=False)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return pem + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
