"""Tests of `keep_protocol.webassembly`: what a binary is, told from its bytes."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
import wasmtime
import wasmtime.component

from keep_protocol.states import WorkloadKind
from keep_protocol.webassembly import wasi
from keep_protocol.webassembly.core_types import FunctionType
from keep_protocol.webassembly.description import MAX_LISTED, describe
from keep_protocol.webassembly.errors import MalformedError
from keep_protocol.webassembly.recognition import Recognition, recognize

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def recognized(text: str) -> Recognition:
    return recognize(bytes(wasmtime.wat2wasm(text)))


def example(name: str) -> bytes:
    return (EXAMPLES / name / f"{name}.wasm").read_bytes()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('(module (func (export "_start")))', WorkloadKind.COMMAND),
        ('(module (func (export "") (result i32) (i32.const 1)))', WorkloadKind.COMMAND),
        ('(module (func (export "_start") (param i32)))', WorkloadKind.MODULE),
        ('(module (func (export "_initialize")) (func (export "f")))', WorkloadKind.REACTOR),
        ('(module (func (export "_initialize") (param i32)) (func (export "f")))', WorkloadKind.MODULE),
        ('(module (func (export "f")))', WorkloadKind.MODULE),
        ('(component (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))', WorkloadKind.COMPONENT_COMMAND),
        (
            '(component (instance $i) (export "wasi:http/incoming-handler@0.2.3" (instance $i)))',
            WorkloadKind.HTTP_PROXY,
        ),
        ('(component (instance $i) (export "a:b/c" (instance $i)))', WorkloadKind.COMPONENT),
    ],
)
def test_the_kind_is_told_from_the_exports(text: str, kind: WorkloadKind) -> None:
    assert recognized(text).kind is kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("hello", WorkloadKind.COMMAND),
        ("arithmetic", WorkloadKind.MODULE),
        ("shout", WorkloadKind.COMPONENT_COMMAND),
        ("geometry", WorkloadKind.COMPONENT),
    ],
)
def test_the_examples_are_what_they_say(name: str, kind: WorkloadKind) -> None:
    found = recognize(example(name))
    assert found.kind is kind
    assert found.refusals == ()
    assert found.features == ()
    assert all(wanted.given for wanted in found.imports)


GC_FIELDS = '(type (array (mut i8))) (func (export "f"))'


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ('(module (memory 1 2) (table 1 2 funcref) (func (export "f") (param v128 externref)))', ()),
        ('(module (import "env" "m" (memory i64 1)) (func (export "f")))', ("memory64",)),
        ('(module (table i64 1 funcref) (func (export "f")))', ("memory64",)),
        ('(module (table 1 anyref) (func (export "f")))', ("gc",)),
        ('(module (type $t (func)) (func $f) (table 1 (ref $t) (ref.func $f)) (func (export "f")))', ("gc",)),
        (f"(module {GC_FIELDS})", ("gc",)),
        ('(module (rec (type (sub (struct (field (ref null 0))))) (type (func))) (func (export "f")))', ("gc",)),
        ('(module (import "env" "g" (global (ref null any))) (func (export "f")))', ("gc",)),
        ('(module (func (export "f") (result (ref null exn)) unreachable))', ("exceptions",)),
        ('(module (import "env" "t" (tag)) (memory i64 1) (func (export "f")))', ("exceptions", "memory64")),
        (f"(component (core module {GC_FIELDS}))", ("gc",)),
        (
            f"(component (component (component (core module {GC_FIELDS})) (core module (tag))))",
            ("exceptions", "gc"),
        ),
        ("(component (core module (memory 1) (memory 1)))", ()),
    ],
)
def test_features_that_declarations_need_are_told(text: str, features: tuple[str, ...]) -> None:
    assert recognized(text).features == features


def test_types_behind_those_of_the_collector_are_found_at_their_index() -> None:
    found = recognized("""(module (rec (type (struct (field i8 (mut i64) (ref null 1)))) (type (array i16)))
      (type (func (param i64) (result f32))) (func (export "f") (type 2) (f32.const 0)))""")
    assert [(each.name, each.type) for each in found.exports] == [("f", "func(i64) -> f32")]


def test_what_no_keep_has_is_a_refusal_in_components_too() -> None:
    (refusal, *_) = recognized("(component (core module (memory 1 1 shared)))").refusals
    assert refusal.startswith("it needs threads: a keep runs a guest in one thread")


def test_a_core_module_that_is_damaged_inside_a_component_is_left_to_the_compiler() -> None:
    inner = b"\0asm\x01\0\0\0\x01\x7f"
    outer = b"\0asm\x0d\0\x01\0" + bytes((1, len(inner))) + inner
    assert recognize(outer).features == ()


def test_imports_and_exports_have_types() -> None:
    found = recognized("""(module
      (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
      (import "env" "table" (table 1 10 funcref)) (import "env" "base" (global (mut i32)))
      (memory (export "memory") 1)
      (func (export "swap") (param i64 f32) (result f32 i64) (local.get 1) (local.get 0))
      (func (export "nothing")))""")
    assert [(each.name, each.type, each.given) for each in found.imports] == [
        ("wasi_snapshot_preview1.fd_write", "func(i32, i32, i32, i32) -> i32", True),
        ("env.table", "table", False),
        ("env.base", "global", False),
    ]
    assert [(each.name, each.type) for each in found.exports] == [
        ("memory", "memory"),
        ("swap", "func(i64, f32) -> (f32, i64)"),
        ("nothing", "func()"),
    ]


def test_all_unknown_imports_are_named_at_once() -> None:
    found = recognized("""(module (import "env" "a" (func)) (import "wasi_unstable" "fd_write" (func))
      (import "env" "memory" (memory 1)) (func (export "_start")))""")
    assert "env.a, wasi_unstable.fd_write, env.memory;" in found.refusals[0]
    assert "preview 0" in found.refusals[1]


def test_an_import_of_another_type_is_told_with_both() -> None:
    found = recognized('(module (import "wasi_snapshot_preview1" "proc_exit" (func)) (func (export "_start")))')
    assert found.refusals == ("its imports do not fit WASI preview 1: proc_exit as func()",)


def test_the_core_of_a_component_is_no_program() -> None:
    found = recognized('(module (import "wasi:cli/exit@0.2.0" "exit" (func (param i32))) (func (export "_start")))')
    assert "component new" in found.refusals[1]


@pytest.mark.parametrize("version", ["0.3.0", "0.2.0-rc-2023-11-10", "0.1.0", "1.0.0"])
def test_a_component_for_another_wasi_is_refused_by_the_version(version: str) -> None:
    found = recognized(f"""(component (import "wasi:cli/environment@{version}" (instance))
      (import "wasi:io/poll@0.2.99" (instance)) (instance $i) (export "wasi:cli/run@{version}" (instance $i)))""")
    assert [each.given for each in found.imports] == [False, True]
    assert f"wasi:cli/run@{version}" in found.refusals[0]
    assert f"of the wrong version are wasi:cli/environment@{version}:" in found.refusals[1]


def test_all_unknown_imports_of_a_component_are_named_at_once() -> None:
    found = recognized("""(component (import "wasi:http/outgoing-handler@0.2.0" (instance)) (import "log" (func))
      (import "wasi:cli/exit@0.2.0" (instance)) (import "wasi:keyvalue/store@0.2.0" (instance))
      (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))""")
    assert "imports: wasi:http/outgoing-handler@0.2.0, log, wasi:keyvalue/store@0.2.0;" in found.refusals[0]


def test_a_resource_that_only_a_host_could_define_is_not_given() -> None:
    text = '(component (import "r" (type $r (sub resource))) (import "s" (type (eq $r))) (export "t" (type $r)))'
    found = recognized(text)
    assert [(each.name, each.type, each.given) for each in found.imports] == [
        ("r", "resource", False),
        ("s", "type", True),
    ]
    assert "a keep does not have these imports: r;" in found.refusals[0]


def test_what_is_given_but_will_fail_is_remarked() -> None:
    component = recognized("""(component (import "wasi:sockets/tcp@0.2.0" (instance)) (instance $i)
      (export "wasi:cli/run@0.2.0" (instance $i)))""")
    assert component.refusals == ()
    assert "wasi:sockets/tcp@0.2.0" in component.remarks[0]
    module = recognized("""(module (import "wasi_snapshot_preview1" "sock_shutdown" (func (param i32 i32) (result i32)))
      (func (export "_start")))""")
    assert "sock_shutdown" in module.remarks[0]


def test_http_is_given_to_components_that_answer_requests_and_to_no_others() -> None:
    imports = '(import "wasi:http/types@0.2.3" (instance)) (import "wasi:http/outgoing-handler@0.2.3" (instance))'
    proxy = recognized(f'(component {imports} (instance $i) (export "wasi:http/incoming-handler@0.2.3" (instance $i)))')
    assert proxy.refusals == ()
    assert all(each.given for each in proxy.imports)
    command = recognized(f'(component {imports} (instance $i) (export "wasi:cli/run@0.2.3" (instance $i)))')
    assert "wasi:http/outgoing-handler@0.2.3" in command.refusals[0]


def test_a_component_for_another_version_of_http_is_refused_by_name() -> None:
    found = recognized('(component (instance $i) (export "wasi:http/incoming-handler@0.3.0" (instance $i)))')
    assert "wasi:http/incoming-handler@0.3.0" in found.refusals[0]


def test_ten_thousand_exports_are_counted_and_not_all_listed() -> None:
    exports = "".join(f'(export "f{index}" (func $f))' for index in range(10_000))
    found = recognized(f"(module (func $f) {exports})")
    assert len(found.exports) == 10_000
    described = describe(found)
    assert len(described.exports) == MAX_LISTED
    assert described.exports_omitted == 10_000 - MAX_LISTED


def test_a_name_without_end_is_cut() -> None:
    described = describe(recognized(f'(module (func (export "{"x" * 100_000}")))'))
    assert len(described.exports[0].name) < 1000


@pytest.mark.parametrize("name", ["hello", "geometry"])
def test_a_damaged_binary_is_recognised_or_malformed_and_nothing_else(name: str) -> None:
    original = example(name)
    chance = random.Random(7)
    for _ in range(500):
        damaged = bytearray(original[: chance.randrange(9, len(original))] if chance.random() < 0.3 else original)
        for _ in range(chance.randrange(1, 6)):
            damaged[chance.randrange(8, len(damaged))] = chance.randrange(256)
        with contextlib.suppress(MalformedError):
            assert recognize(damaged).kind


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"print('hello')", "no WebAssembly"),
        (b"\0asm\x01\0\0\0\x02\xff\xff\xff\xff\x0f", "cut off"),
        (b"\0asm\x01\0\0\0\x02\x05\xff\xff\xff\xff\x0f", "as many bytes"),
        (b"\0asm\x01\0\0\0\x07\x05\x01\x01f\x00\x09", "points behind"),
        (b"\0asm\x0d\0\x01\0\x0b\x04\x01\x07\x01f", "form 7"),
    ],
)
def test_what_is_malformed_is_told(content: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        recognize(content)


def test_the_functions_of_preview_1_are_those_that_wasmtime_has() -> None:
    engine = wasmtime.Engine()
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    store = wasmtime.Store(engine)
    for name, function in wasi.PREVIEW1_FUNCTIONS.items():
        found = linker.get(store, wasi.PREVIEW1, name)
        assert isinstance(found, wasmtime.Func)
        kind = found.type(store)
        assert FunctionType(tuple(map(str, kind.params)), tuple(map(str, kind.results))) == function, name


def test_the_interfaces_of_wasi_0_2_are_those_that_wasmtime_has() -> None:
    engine = wasmtime.Engine()
    linker = wasmtime.component.Linker(engine)
    linker.add_wasip2()
    store = wasmtime.Store(engine)
    store.set_wasi(wasmtime.WasiConfig())
    for version in ("0.2.0", "0.2.12"):
        imports = "".join(f'(import "{name}@{version}" (instance))' for name in sorted(wasi.INTERFACES))
        linker.instantiate(store, wasmtime.component.Component(engine, f"(component {imports})"))
