"""`keepctl create|ls|show|stop|start|restart|rm|logs`: the life of keeps."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from keep_client import InvalidArgumentError, KeepClientError, ManagerClient, new_spec
from keep_protocol.egress.rules import rule_text
from keep_protocol.machine import MachineStart
from keep_protocol.manager_api import Keep, KeepDetail
from keep_protocol.network_policy import NetworkPolicy
from keep_protocol.spec import KeepSpec, canonical, spec_digest
from keep_protocol.states import AtRest, KeepState
from testers.deployment import Deployment, printable
from testers.keepctl.command import add_command
from testers.keepctl.configurations import (
    add_configuration_option,
    network_for,
    open_configuration,
    restarts_runs,
)
from testers.keepctl.connecting import open_keep
from testers.keepctl.console import say, show_fields, show_json, show_table
from testers.keepctl.option_words import fields_as_options
from testers.keepctl.quantities import size_text
from testers.keepctl.secret_sources import add_secret_source_options, secret_sources_of
from testers.keepctl.specification import (
    SPEC_OPTIONS,
    add_at_rest_option,
    add_evidence_options,
    add_limit_options,
    add_network_options,
    allowance,
    evidence_of,
    limits_of,
    network_of,
    principals_of,
)
from testers.keepctl.trust_store import TrustedKeep, TrustStore, policy_table

if TYPE_CHECKING:
    from testers.keepctl.command import Handler, Subparsers


def register(subparsers: Subparsers) -> None:
    """Declare these commands."""
    create = add_command(
        subparsers,
        "create",
        "make a keep and verify it",
        _create,
        examples=(
            "keepctl create --name prices --memory 1G --cpu 200",
            "keepctl create --allow data-provider=alice.pem --allow auditor=spiffe://example.org/user/bob",
            "keepctl create --evidence tpm --policy production.toml",
            "keepctl create --evidence snp --policy production.toml --egress-allow https://kbs.example.com \\\n"
            "    --secret-from-kbs db-password=https://kbs.example.com#default/password/db",
            "keepctl create --listen 8080 --egress-allow **.example.com --egress-allow 10.0.0.0/8:5432+private",
        ),
        details="You become its owner. Others are let in by --allow only; the operator has no rights inside a keep.\n"
        "With --evidence its spec's digest is remembered in the trust store, so that a host which starts it from\n"
        "another spec is caught; with --policy the policy too, which every later command for it demands.",
    )
    create.add_argument("--name", help="1 to 63 of A-Z a-z 0-9 . _ - (default: chosen by the manager)")
    create.add_argument(
        "--allow",
        metavar="ROLE=WHO",
        type=allowance,
        action="append",
        default=[],
        help="let in WHO (a certificate file or a SPIFFE id) as owner, data-provider, result-consumer, caller, auditor",
    )
    add_evidence_options(create)
    add_at_rest_option(create)
    add_secret_source_options(create)
    add_configuration_option(create, "the workload that it is for: its spec allows the network that FILE names")
    add_limit_options(create)
    add_network_options(create)
    add_command(
        subparsers, "ls", "list your keeps", _list, examples=("keepctl ls", "keepctl ls --json | jq -r '.[].id'")
    )
    show = add_command(
        subparsers, "show", "show a keep, its limits and its sandbox", _show, examples=("keepctl show prices",)
    )
    show.add_argument("keep", metavar="KEEP", help="id or name")
    for name, summary in (
        ("stop", "stop a keep; workload and files stay"),
        ("start", "start a stopped or failed keep"),
        ("restart", "stop and start a keep"),
    ):
        change = add_command(subparsers, name, summary, _change(name), examples=(f"keepctl {name} prices",))
        change.add_argument("keep", metavar="KEEP", help="id or name")
    remove = add_command(
        subparsers,
        "rm",
        "end keeps and wipe all that they hold",
        _remove,
        examples=("keepctl rm prices", "keepctl rm 3f1c0a5be2d94c71 prices"),
    )
    remove.add_argument("keeps", metavar="KEEP", nargs="+", help="id or name")
    logs = add_command(
        subparsers,
        "logs",
        "show what a keep's loader wrote; never what workloads wrote",
        _logs,
        examples=("keepctl logs prices", "keepctl logs prices --lines 20"),
    )
    logs.add_argument("keep", metavar="KEEP", help="id or name")
    logs.add_argument("--lines", metavar="N", type=int, help="the last N lines only")


def _create(options: argparse.Namespace) -> int:
    deployment = Deployment.from_options(options)
    evidence = evidence_of(options)
    policy = None if options.policy is None else policy_table(options.policy)
    configured = None if options.config is None else open_configuration(options.config)
    principals, limits = principals_of(deployment, options.allow, options.backend), limits_of(options)
    secrets = secret_sources_of(options)
    with fields_as_options(SPEC_OPTIONS):
        spec = new_spec(
            principals=principals,
            limits=limits,
            at_rest=AtRest(options.at_rest),
            backend=options.backend,
            evidence=evidence,
            network=network_of(options, network_for(configured)),
            secrets=secrets,
            restart_runs=restarts_runs(configured),
        )
    with deployment.connect() as manager:
        with fields_as_options(SPEC_OPTIONS):
            keep = manager.create_keep(spec, name=options.name)
        if evidence is not None:
            _remember(TrustStore.of(deployment), keep, spec, policy, options.name)
        try:
            if evidence is None or policy is not None:
                with open_keep(manager, deployment, keep.id) as client:
                    client.verify()
            else:
                say(f"keep {keep.id} is not verified: look at it with `keepctl trust {keep.id}`, or give --policy")
        except KeepClientError:
            say(f"keep {keep.id} was made and cannot be verified: `keepctl rm {keep.id}` removes it")
            raise
    if options.json:
        show_json(keep)
    else:
        print(f"{keep.id}  {printable(keep.name)}  {keep.state}  {keep.endpoint}")
    return 0


def _remember(store: TrustStore, keep: Keep, spec: KeepSpec, policy: dict[str, Any] | None, asked: str | None) -> None:
    # Ids and names are the manager's word: it must not make us forget what we demand of another keep.
    if asked is not None and keep.name != asked:
        raise InvalidArgumentError(
            f"keep {keep.id} was to be called {asked!a}, the manager calls it {keep.name!a}: refused"
        )
    if store.find(keep.id) is not None:
        raise InvalidArgumentError(f"the manager gives a new keep the id of one that is known, {keep.id!a}: refused")
    if (former := store.named(keep.name)) is not None:
        if asked is None:
            raise InvalidArgumentError(f"the manager names a new keep like a known one, {keep.name!a}: refused")
        # Of a keep that is gone, says who uses its name again.
        store.forget(former.keep)
    # Of the spec that we wrote, whatever the manager says it made.
    digest = spec_digest(canonical(spec))
    store.write(TrustedKeep(keep=keep.id, name=keep.name, evidence=spec.evidence, spec_digest=digest, policy=policy))


def _list(options: argparse.Namespace) -> int:
    with Deployment.from_options(options).connect() as manager:
        found = manager.list_keeps()
    if options.json:
        show_json(found.keeps)
        return 0
    show_table(
        ("ID", "NAME", "STATE", "EVIDENCE", "ENDPOINT", "PID", "CREATED", "OWNER"),
        [
            (
                *(keep.id, keep.name, keep.state, keep.evidence or "-", keep.endpoint, str(keep.pid or "-")),
                *(keep.created_at, keep.owner),
            )
            for keep in found.keeps
        ],
    )
    if found.stale:
        say("systemd does not answer: this is what was known last")
    if found.orphans:
        say(f"units without a record: {' '.join(map(printable, found.orphans))}")
    return 0


def _show(options: argparse.Namespace) -> int:
    deployment = Deployment.from_options(options)
    with deployment.connect() as manager:
        detail = manager.get_keep(options.keep)
        http = _http_of(manager, deployment, detail)
    if options.json:
        show_json(msgspec.structs.asdict(detail) | {"http": http})
    else:
        _show_detail(detail, http)
    return 0


def _http_of(manager: ManagerClient, deployment: Deployment, detail: KeepDetail) -> dict[str, Any] | None:
    """The port of the workload's own, which the keep knows and the manager does not; None if it can have none."""
    endpoint = detail.keep.endpoint
    if not detail.spec.network.listen or detail.keep.state is not KeepState.READY or endpoint is None:
        return None
    try:
        with open_keep(manager, deployment, detail.keep.id) as keep:
            port = keep.status().http_port
    except KeepClientError as error:
        return {"url": None, "problem": f"the keep was not asked: {error}"}
    if port is None:
        return None
    return {"url": f"https://{endpoint.rpartition(':')[0]}:{port.port}/", **msgspec.structs.asdict(port)}


def _http_text(http: dict[str, Any] | None) -> str | None:
    if http is None or http["url"] is None:
        return None if http is None else f"unknown: {http['problem']}"
    whom = "everybody" if http["public"] else "its owners and callers"
    return f"{http['url']} for {whom}" + ("" if http["listening"] else f" (closed: {http['problem']})")


def _show_detail(detail: KeepDetail, http: dict[str, Any] | None) -> None:
    keep, limits = detail.keep, detail.keep.limits
    show_fields(
        {
            "id": keep.id,
            "name": keep.name,
            "owner": keep.owner,
            "state": f"{keep.state}{f': {keep.reason}' if keep.reason else ''}{' (stale)' if keep.stale else ''}",
            "desired": keep.desired,
            "backend": keep.backend,
            "evidence": keep.evidence or "none: pinned by the manager's word",
            "endpoint": keep.endpoint,
            "http": _http_text(http),
            "process": None if keep.pid is None else str(keep.pid),
            "invocation": keep.invocation,
            "restarts": str(keep.restarts),
            "started as": None if detail.start is None else _start_text(detail.start),
            "unit": f"{detail.unit} ({detail.supervisor})",
            "network broker": None if detail.broker is None else f"{detail.broker.unit}: {detail.broker.state}",
            "spec": keep.spec_digest,
            "created": keep.created_at,
        }
    )
    print(f"\nlimits ({'enforced' if detail.limits_enforced else 'NOT enforced by this supervisor'})")
    show_table(
        ("LIMIT", "VALUE"),
        [
            ("memory", size_text(limits.memory)),
            ("cpu", f"{limits.cpu} %"),
            ("tasks", str(limits.tasks)),
            ("workload", size_text(limits.workload)),
            ("files", size_text(limits.files)),
            ("output", size_text(limits.output)),
            ("run time", f"{limits.run_time} s"),
            ("runs", str(limits.runs)),
        ],
    )
    _show_network(detail.spec.network)
    print("\nprincipals")
    show_table(
        ("WHO", "ROLES", "CRL"),
        [
            (who.spiffe_id or "a pinned certificate", ", ".join(who.roles), who.crl or "-")
            for who in detail.spec.principals
        ],
    )
    print("\nsandbox")
    show_table(("DIRECTIVE", "STATUS", "DETAIL"), [(line.name, line.status, line.detail) for line in detail.sandbox])


def _start_text(start: MachineStart) -> str:
    """How a machine came to life: `clone`, or `cold` and why."""
    return f"{start.kind}: {start.reason}" if start.reason else start.kind


def _show_network(network: NetworkPolicy) -> None:
    rules = [(name, rule) for name in ("allow", "deny") for rule in getattr(network.egress, name)]
    if network.listen or rules:
        print("\nnetwork")
        listen = [("listen", str(port)) for port in network.listen]
        show_table(("MAY", "WHAT"), [*listen, *((name, rule_text(rule)) for name, rule in rules)])


def _change(name: str) -> Handler:
    def handle(options: argparse.Namespace) -> int:
        with Deployment.from_options(options).connect() as manager:
            changes = {"stop": manager.stop_keep, "start": manager.start_keep, "restart": manager.restart_keep}
            _report(changes[name](options.keep), json=options.json)
        return 0

    return handle


def _report(keep: Keep, *, json: bool) -> None:
    if json:
        show_json(keep)
    else:
        print(f"{keep.id}  {printable(keep.name)}  {keep.state}")


def _remove(options: argparse.Namespace) -> int:
    deployment = Deployment.from_options(options)
    store = TrustStore.of(deployment)
    with deployment.connect() as manager:
        for ref in options.keeps:
            known = store.find(ref)
            manager.remove_keep(ref)
            if known is not None:
                store.forget(known.keep)
            if not options.json:
                print(f"{printable(ref)}  removed")
    if options.json:
        show_json({"removed": options.keeps})
    return 0


def _logs(options: argparse.Namespace) -> int:
    with Deployment.from_options(options).connect() as manager:
        text = manager.logs(options.keep, lines=options.lines)
    if options.json:
        show_json({"lines": text.splitlines()})
    elif sys.stdout.isatty():
        print("\n".join(printable(line.expandtabs()) for line in text.splitlines()))
    else:
        sys.stdout.write(text)
    return 0
