"""Calls of a component's functions: every type of WIT as JSON, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.states import WorkloadKind
from tests.unit.app_loader.execution_harness import REPOSITORY, Execution, execute, wat

GEOMETRY = (REPOSITORY / "examples" / "geometry" / "geometry.wasm").read_bytes()
AREA = "wasmkeep:geometry/figures@1.0.0#area"

_MEMORY = """(memory (export "memory") 16) (global $used (mut i32) (i32.const 8))
  (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $used) (i32.const 7)) (i32.const -8)))
    (global.set $used (i32.add (local.get $at) (local.get 3))) (local.get $at))"""
_OPTIONS = '(memory (core memory $i "memory")) (realloc (core func $i "realloc"))'
_PADDING = 16
"""More parameters than fit, so that all come in memory, the first of them where the result is looked for."""

# Each part has a memory of its own; what wasmtime makes between them needs both.
COMPOSED = """(component
  (component $counter
    (core module $m
      (memory (export "memory") 1)
      (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64))
      (func (export "length") (param i32 i32) (result i32) (local.get 1)))
    (core instance $i (instantiate $m))
    (func (export "length") (param "text" string) (result u32)
      (canon lift (core func $i "length") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))
  (component $speaker
    (import "length" (func $length (param "text" string) (result u32)))
    (core module $libc (memory (export "memory") 1))
    (core instance $libc (instantiate $libc))
    (core func $lowered (canon lower (func $length) (memory (core memory $libc "memory"))))
    (core module $m
      (import "libc" "memory" (memory 1))
      (import "counter" "length" (func $length (param i32 i32) (result i32)))
      (data (i32.const 0) "hello")
      (func (export "run") (result i32) (call $length (i32.const 0) (i32.const 5))))
    (core instance $i
      (instantiate $m
        (with "libc" (instance $libc))
        (with "counter" (instance (export "length" (func $lowered))))))
    (func (export "run") (result u32) (canon lift (core func $i "run"))))
  (instance $counter (instantiate $counter))
  (instance $speaker (instantiate $speaker (with "length" (func $counter "length"))))
  (export "run" (func $speaker "run")))"""


def echoing(kind: str, *, types: str = "", flat: str | None = None) -> bytes:
    """A component that gives back its first parameter.

    `flat` is the core type of a kind that needs only one; other kinds come and go through memory.
    """
    padding = "" if flat else " ".join(f'(param "p{index}" u64)' for index in range(_PADDING))
    core = flat or "i32"
    return wat(f"""(component {types} (core module $m {_MEMORY}
      (func (export "echo") (param {core}) (result {core}) (local.get 0)))
      (core instance $i (instantiate $m))
      (func (export "echo") (param "value" {kind}) {padding} (result {kind})
        (canon lift (core func $i "echo") {_OPTIONS})))""")


def named(definition: str) -> str:
    """A type that may be used in the type of an exported function, `$t`."""
    return f'(type $defined {definition}) (export $t "t" (type $defined))'


RECORD = named('(record (field "name" string) (field "size" u32) (field "note" (option string)))')
VARIANT = named('(variant (case "none") (case "one" s64) (case "both" (tuple string bool)))')
ENUM = named('(enum "red" "green")')
FLAGS = named('(flags "read" "write" "run")')


@pytest.mark.parametrize(
    ("kind", "types", "value"),
    [
        ("string", "", "hello, wörld \U0001f600"),
        ("string", "", ""),
        ("(list u8)", "", [0, 127, 255]),
        ("(list string)", "", ["a", "", "ccc"]),
        ("(list (list s16))", "", [[], [-32768, 32767]]),
        ("(tuple s8 f32 char)", "", [-128, 0.5, "é"]),
        ("$t", RECORD, {"name": "x", "size": 4294967295, "note": "y"}),
        ("$t", RECORD, {"name": "x", "size": 0, "note": None}),
        ("$t", VARIANT, "none"),
        ("$t", VARIANT, {"one": "-9223372036854775808"}),
        ("$t", VARIANT, {"both": ["x", True]}),
        ("(list $t)", ENUM, ["green", "red"]),
        ("(list $t)", FLAGS, [[], ["read", "run"], ["write"]]),
        ("(option u64)", "", "18446744073709551615"),
        ("(option u64)", "", None),
        ("(option (option u8))", "", None),
        ("(option (option u8))", "", {"some": None}),
        ("(option (option u8))", "", {"some": 7}),
        ("(result f64 (error string))", "", {"ok": 1.5}),
        ("(result f64 (error string))", "", {"error": "no"}),
        ("(result (error u8))", "", {"ok": None}),
        ("(list (result))", "", [{"ok": None}, {"error": None}]),
        ("(list bool)", "", [True, False]),
        ("(list s8)", "", [-128, 127]),
        ("(list u16)", "", [65535]),
        ("(list s32)", "", [-2147483648, 1]),
        ("(list u32)", "", [4294967295]),
        ("(list s64)", "", [-1, "-9223372036854775808"]),
        ("(list u64)", "", [1, "18446744073709551615"]),
        ("(list f32)", "", [0.5, "NaN"]),
        ("(list char)", "", ["a", "é"]),
        ("(list f64)", "", ["NaN", "Infinity", -0.5]),
    ],
)
def test_a_value_comes_back_as_it_was_given(tmp_path: Path, kind: str, types: str, value: Any) -> None:
    async def scenario(keep: Execution) -> None:
        assert (await keep.load(echoing(kind, types=types))).kind == WorkloadKind.COMPONENT
        assert await keep.call("echo", value, *range(_PADDING)) == value

    execute(tmp_path, scenario)


@pytest.mark.parametrize(
    ("kind", "flat", "types", "values"),
    [
        ("bool", "i32", "", [True, False]),
        ("u8", "i32", "", [0, 255]),
        ("s8", "i32", "", [-128, 127]),
        ("u16", "i32", "", [65535]),
        ("s32", "i32", "", [-2147483648]),
        ("u32", "i32", "", [4294967295]),
        ("s64", "i64", "", [9007199254740991, "-9007199254740993"]),
        ("f32", "f32", "", [0.5, "NaN"]),
        ("f64", "f64", "", [0.1, "-Infinity"]),
        ("char", "i32", "", ["x", "\U0001f600"]),
        ("$t", "i32", ENUM, ["red", "green"]),
        ("$t", "i32", FLAGS, [[], ["read", "write", "run"]]),
    ],
)
def test_a_scalar_comes_back_as_it_was_given(
    tmp_path: Path, kind: str, flat: str, types: str, values: list[Any]
) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(echoing(kind, types=types, flat=flat))
        assert [await keep.call("echo", value) for value in values] == values

    execute(tmp_path, scenario)


@pytest.mark.parametrize(
    ("kind", "types", "value", "field", "words"),
    [
        ("u8", "", 256, "", "from 0 to 255"),
        ("u8", "", -1, "", "from 0 to 255"),
        ("bool", "", 1, "", "true or false"),
        ("char", "", "ab", "", "one character"),
        ("char", "", 7, "", "a char"),
        ("string", "", None, "", "a string"),
        ("(list u8)", "", [1, 300], "[1]", "from 0 to 255"),
        ("(list u8)", "", "abc", "", "an array"),
        ("(tuple u8 u8)", "", [1], "", "an array of 2"),
        ("$t", RECORD, {"name": "x"}, ".size", "this u32 is missing"),
        ("$t", RECORD, {"name": "x", "size": 1, "colour": 2}, ".colour", "no such field"),
        ("$t", RECORD, {"name": 1, "size": 1}, ".name", "a string"),
        ("$t", RECORD, [], "", "an object"),
        ("$t", VARIANT, "two", "", '"none", "one", "both"'),
        ("$t", VARIANT, "one", "", '{"one": s64}'),
        ("$t", VARIANT, {"none": 1}, "", '"none" alone'),
        ("$t", VARIANT, {"both": ["x", 1]}, ".both[1]", "true or false"),
        ("$t", VARIANT, {"one": 1, "none": 1}, "", "one case"),
        ("$t", ENUM, "blue", "", '"red", "green"'),
        ("$t", FLAGS, ["read", "fly"], "[1]", '"read", "write", "run"'),
        ("(option u8)", "", "x", "", "u8"),
        ("(option (option u8))", "", 7, "", '{"some": VALUE}'),
        ("(result u8 (error string))", "", 7, "", '{"ok": VALUE}'),
        ("(result u8 (error string))", "", {"error": 1}, ".error", "a string"),
        ("(result)", "", {"ok": 1}, ".ok", "null"),
    ],
)
def test_what_does_not_fit_a_type_is_named_where_it_is(
    tmp_path: Path, kind: str, types: str, value: Any, field: str, words: str
) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(echoing(kind, types=types) if kind[0] in "($" or kind == "string" else scalar(kind))
        padding = range(_PADDING) if kind[0] in "($" or kind == "string" else ()
        with pytest.raises(RefusalError) as refusal:
            await keep.call("echo", value, *padding)
        assert (refusal.value.code, refusal.value.field) == (ErrorCode.FIELD_INVALID, f"$.arguments[0]{field}")
        assert words in refusal.value.detail

    def scalar(name: str) -> bytes:
        return echoing(name, flat="i32")

    execute(tmp_path, scenario)


def test_functions_of_an_exported_interface_are_called_by_both_names(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        info = await keep.load(GEOMETRY)
        assert ("words", "func(text: string) -> list<string>") in [(each.name, each.type) for each in info.exports]
        assert await keep.call("words", "to be  or not") == ["to", "be", "or", "not"]
        assert await keep.call(AREA, "point") == {"ok": 0.0}
        assert await keep.call(AREA, {"rectangle": {"width": 2, "height": 3.5}}) == {"ok": 7.0}
        assert await keep.call(AREA, {"circle": -1}) == {"error": "a length is negative"}

    execute(tmp_path, scenario)


@pytest.mark.parametrize(
    "function", ["area", "wasmkeep:geometry/figures@1.0.0", f"{AREA}x", "x#area", "#", "", "#words"]
)
def test_an_unknown_function_of_a_component_is_not_found(tmp_path: Path, function: str) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(GEOMETRY)
        with pytest.raises(RefusalError, match="words, wasmkeep:geometry") as refusal:
            await keep.call(function)
        assert refusal.value.code == ErrorCode.FUNCTION_NOT_FOUND

    execute(tmp_path, scenario)


def test_a_trap_in_a_component_comes_with_a_backtrace(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(GEOMETRY)
        with pytest.raises(RefusalError) as refusal:
            await keep.call("words", "x " * 400_000)
        assert (refusal.value.code, refusal.value.trap) == (ErrorCode.CALL_TRAPPED, "unreachable")
        assert refusal.value.backtrace
        assert await keep.call("words", "x") == ["x"]

    execute(tmp_path, scenario)


def test_resources_are_refused_by_name(tmp_path: Path) -> None:
    component = wat("""(component (type $r' (resource (rep i32))) (export $r "r" (type $r'))
      (core module $m (func (export "f") (result i32) (i32.const 0))) (core instance $i (instantiate $m))
      (core func $new (canon resource.new $r'))
      (func (export "make") (result (own $r)) (canon lift (core func $i "f"))))""")

    async def scenario(keep: Execution) -> None:
        await keep.load(component)
        with pytest.raises(RefusalError, match="resource") as refusal:
            await keep.call("make")
        assert refusal.value.code == ErrorCode.FUNCTION_UNSUPPORTED

    execute(tmp_path, scenario)


def test_types_that_are_nested_too_deeply_are_refused(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        info = await keep.load(echoing("(list " * 70 + "u8" + ")" * 70))
        assert "nested" in info.exports[-1].type
        with pytest.raises(RefusalError, match="nested") as refusal:
            await keep.call("echo", [], *range(_PADDING))
        assert refusal.value.code == ErrorCode.FUNCTION_UNSUPPORTED

    execute(tmp_path, scenario)


def test_a_type_that_doubles_on_every_level_is_refused(tmp_path: Path) -> None:
    levels = "".join(f"(type $l{level + 1} (tuple $l{level} $l{level}))" for level in range(16))

    async def scenario(keep: Execution) -> None:
        await keep.load(echoing("(list $l16)", types=f"(type $l0 (tuple u8 u8)) {levels}"))
        with pytest.raises(RefusalError, match="parts") as refusal:
            await keep.call("echo", [], *range(_PADDING))
        assert refusal.value.code == ErrorCode.FUNCTION_UNSUPPORTED

    execute(tmp_path, scenario)


def test_values_that_are_nested_deeply_are_passed_and_deeper_ones_refused(tmp_path: Path) -> None:
    depth = 50

    def nested(levels: int) -> Any:
        value: Any = 7
        for _ in range(levels):
            value = [value]
        return value

    async def scenario(keep: Execution) -> None:
        await keep.load(echoing("(list " * depth + "u8" + ")" * depth))
        assert await keep.call("echo", nested(depth), *range(_PADDING)) == nested(depth)
        with pytest.raises(RefusalError) as refusal:
            await keep.call("echo", nested(depth + 1), *range(_PADDING))
        assert refusal.value.field == "$.arguments[0]" + "[0]" * depth

    execute(tmp_path, scenario)


def test_a_result_that_is_too_long_is_refused_and_the_next_call_answered(tmp_path: Path) -> None:
    component = wat("""(component (core module $m (memory (export "memory") 512)
        (func (export "f") (param i32) (result i32)
          (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (local.get 0)) (i32.const 0)))
      (core instance $i (instantiate $m))
      (func (export "zeros") (param "count" u32) (result (list u8))
        (canon lift (core func $i "f") (memory (core memory $i "memory")))))""")

    async def scenario(keep: Execution) -> None:
        await keep.load(component)
        with pytest.raises(RefusalError) as refusal:
            await keep.call("zeros", 10_000_000)
        assert refusal.value.code in {ErrorCode.RESULT_TOO_LARGE, ErrorCode.CALL_TRAPPED}
        assert await keep.call("zeros", 3) == [0, 0, 0]

    execute(tmp_path, scenario)


def test_parts_of_a_component_pass_strings_to_each_other(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(COMPOSED))
        assert await keep.call("run") == 5

    execute(tmp_path, scenario)
