"""Tests of features of WebAssembly that are off unless the configuration asks: refused by name, or run and bounded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from app_loader.compilation import DEFAULT_COMPILE_LIMITS, CompileLimits
from app_loader.component_program import Component
from app_loader.engine import Engine, Module
from app_loader.errors import EngineError
from app_loader.feature_words import feature_wanted
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import RunRequest, WorkloadInfo
from keep_protocol.network_policy import NO_NETWORK, NetworkPolicy
from keep_protocol.spec import MiB
from keep_protocol.states import AtRest, ExitReason, WasmFeature, WorkloadKind
from keep_protocol.webassembly import header
from keep_protocol.webassembly.features import IMPOSSIBLE
from keep_protocol.workload_configuration import ListenFile, NullFile, SocketProtocol, WorkloadConfiguration
from tests.unit.app_loader.execution_harness import RETURNS, Execution, ending, execute, guest, refused, spec, wat

NO_COMPILATION = CompileLimits(wall_seconds=0.0)
LEGACY = bytes.fromhex("0061736d01000000 010401600000 03020100 070501016600 00 0a08010600 0640190b0b")
"""(module (func (export "f") try catch_all end))"""

DECLARED = {
    "memory64": '(module (memory i64 1) (func (export "f")))',
    "memory64 of a table": '(module (table i64 1 funcref) (func (export "f")))',
    "gc": '(module (type (struct (field i32))) (func (export "f")))',
    "gc in a group": '(module (rec (type (func)) (type (func (param i32)))) (func (export "f")))',
    "gc of a subtype": '(module (type (sub (func))) (func (export "f")))',
    "gc in a function's type": '(module (func (export "f")) (func (param anyref)))',
    "gc in a typed reference": '(module (type $t (func)) (func (export "f")) (func (param (ref $t))))',
    "exceptions": '(module (tag (param i32)) (func (export "f")))',
    "exceptions in a function's type": '(module (func (export "f")) (func (param exnref)))',
}
IN_CODE = {
    "gc": '(module (func (export "f") (drop (ref.i31 (i32.const 1)))))',
    "gc in a local": '(module (func (export "f") (local anyref)))',
    "gc in a typed local": '(module (type $t (func)) (func (export "f") (local (ref null $t))))',
    "exceptions": '(module (func (export "f") (block $all (try_table (catch_all $all)))))',
    "relaxed-simd": """(module (func (export "f")
      (drop (i8x16.relaxed_swizzle (v128.const i64x2 0 0) (v128.const i64x2 0 0)))))""",
    "wide-arithmetic": """(module (func (export "f") (local i64)
      (local.set 0 (i64.mul_wide_u (i64.const 1) (i64.const 1))) (drop)))""",
}
SAMPLES = [pytest.param(name.partition(" ")[0], text, id=name) for name, text in DECLARED.items()] + [
    pytest.param(name.partition(" ")[0], text, id=f"{name}, in code") for name, text in IN_CODE.items()
]
NEVER = [
    ("threads", wat('(module (memory 1 1 shared) (func (export "f")))')),
    ("threads", wat('(module (import "env" "memory" (memory 1 1 shared)) (func (export "f")))')),
    ("threads", wat('(module (memory 1) (func (export "f") (drop (i32.atomic.load (i32.const 0)))))')),
    ("stack-switching", wat('(module (type $f (func)) (type (cont $f)) (func (export "f")))')),
    ("custom-page-sizes", wat('(module (memory 1 (pagesize 1)) (func (export "f")))')),
    ("multi-memory", wat('(module (memory 1) (memory 1) (func (export "f")))')),
    ("legacy-exceptions", LEGACY),
    ("component-model-async", wat('(component (type $t (stream u8)) (export "t" (type $t)))')),
    ("component-model-async", wat('(component (core func (canon task.cancel)) (type $t u8) (export "t" (type $t)))')),
]

ENDLESS_LIST = """(module (memory (export "memory") 1)
  (type $node (struct (field (ref null $node)) (field i64)))
  (func (export "_start") (local $head (ref null $node))
    (loop $again (local.set $head (struct.new $node (local.get $head) (i64.const 1))) (br $again))))"""


def play(
    state: Path,
    scenario: Callable[[Execution], Awaitable[None]],
    *features: str,
    at_rest: AtRest = AtRest.PLAIN,
    compile_limits: CompileLimits = DEFAULT_COMPILE_LIMITS,
) -> None:
    """In a keep with these features switched on."""

    async def configured(keep: Execution) -> None:
        await configure(keep, *features)
        await scenario(keep)

    execute(state, configured, spec(at_rest=at_rest), compile_limits)


async def configure(keep: Execution, *features: str) -> None:
    await keep.configuration.replace(WorkloadConfiguration(features=tuple(map(WasmFeature, features))))


async def refusal_of_load(keep: Execution, wasm: bytes) -> RefusalError:
    with pytest.raises(RefusalError) as refusal:
        await keep.load(wasm)
    return refusal.value


@pytest.mark.parametrize(("feature", "text"), SAMPLES)
def test_what_is_off_is_refused_by_name_with_what_to_write_and_runs_once_it_is_on(
    tmp_path: Path, feature: str, text: str
) -> None:
    async def scenario(keep: Execution) -> None:
        refusal = await refusal_of_load(keep, wat(text))
        assert refusal.code == ErrorCode.FEATURE_OFF
        assert f"needs {feature}, which is off" in refusal.detail
        assert f'features = ["{feature}"] to Keep.toml' in str(refusal.remedy)
        await configure(keep, feature)
        info = await keep.load(wat(text))
        assert info.features == (feature,)
        assert await keep.call("f") is None

    execute(tmp_path, scenario)


@pytest.mark.parametrize(("name", "wasm"), NEVER)
def test_what_no_keep_has_is_refused_by_name_whatever_is_on(tmp_path: Path, name: str, wasm: bytes) -> None:
    async def scenario(keep: Execution) -> None:
        refusal = await refusal_of_load(keep, wasm)
        assert refusal.code == ErrorCode.WORKLOAD_INVALID
        assert f"it needs {name}: {IMPOSSIBLE[name]}" in refusal.detail

    play(tmp_path, scenario, *WasmFeature)


def test_a_module_that_spawns_threads_is_refused_with_the_import_and_the_reason(tmp_path: Path) -> None:
    text = """(module (import "env" "memory" (memory 1 2 shared))
      (import "wasi" "thread-spawn" (func (param i32) (result i32)))
      (func (export "wasi_thread_start") (param i32 i32)) (func (export "_start")))"""

    async def scenario(keep: Execution) -> None:
        refusal = await refusal_of_load(keep, wat(text))
        assert refusal.code == ErrorCode.WORKLOAD_INVALID
        assert "wasi.thread-spawn" in refusal.detail
        assert "one thread" in refusal.detail

    play(tmp_path, scenario, *WasmFeature)


@pytest.mark.parametrize(("feature", "text"), SAMPLES)
def test_wasmtime_says_which_feature_it_misses_in_words_that_are_known(feature: str, text: str) -> None:
    with pytest.raises(EngineError) as error:
        Module.compile(Engine(), bytearray(wat(text)))
    assert feature_wanted(str(error.value)) == feature
    Module.compile(Engine([WasmFeature(feature)]), bytearray(wat(text))).close()


@pytest.mark.parametrize(("name", "wasm"), NEVER)
def test_what_no_keep_has_is_off_in_the_engine_too(name: str, wasm: bytes) -> None:
    kind = Component if header.is_component(wasm) else Module
    with pytest.raises(EngineError) as error:
        kind.compile(Engine(list(WasmFeature), multi_memory=False), bytearray(wasm))
    assert feature_wanted(str(error.value)) == name


def test_all_that_are_off_are_named_at_once_and_what_is_on_stays_in_what_to_write(tmp_path: Path) -> None:
    text = '(module (memory i64 1) (tag) (type (struct)) (func (export "f")))'

    async def scenario(keep: Execution) -> None:
        refusal = await refusal_of_load(keep, wat(text))
        assert "needs gc and memory64, which are off" in refusal.detail
        assert 'features = ["exceptions", "gc", "memory64"]' in str(refusal.remedy)

    play(tmp_path, scenario, "exceptions")


def test_a_component_may_need_features_too(tmp_path: Path) -> None:
    text = """(component
      (core module $m (type $s (struct (field i32))) (func (export "f") (result i32)
        (struct.get $s 0 (struct.new $s (i32.const 7)))))
      (core instance $i (instantiate $m))
      (func (export "f") (result u32) (canon lift (core func $i "f"))))"""

    async def scenario(keep: Execution) -> None:
        assert (await refusal_of_load(keep, wat(text))).code == ErrorCode.FEATURE_OFF
        await configure(keep, "gc")
        info = await keep.load(wat(text))
        assert (info.kind, info.features) == (WorkloadKind.COMPONENT, ("gc",))
        assert await keep.call("f") == 7

    execute(tmp_path, scenario)


@pytest.mark.parametrize("at_rest", AtRest)
def test_code_is_compiled_once_whatever_is_switched_on_and_off_and_runs_only_while_it_is_on(
    tmp_path: Path, at_rest: AtRest
) -> None:
    wasm = wat(DECLARED["gc"])

    async def first(keep: Execution) -> None:
        await keep.load(wasm)

    async def second(keep: Execution) -> None:
        await configure(keep)
        with refused(ErrorCode.FEATURE_OFF):
            await keep.call("f")
        with refused(ErrorCode.FEATURE_OFF):
            await keep.load(wasm)
        assert keep.workload.info.features == ("gc",)
        await configure(keep, *WasmFeature)
        assert await keep.call("f") is None
        info: WorkloadInfo = await keep.load(wasm)
        assert info.features == ("gc",)
        await keep.configuration.remove()
        with refused(ErrorCode.FEATURE_OFF):
            await keep.call("f")

    play(tmp_path, first, "gc", at_rest=at_rest)
    play(tmp_path, second, "gc", at_rest=at_rest, compile_limits=NO_COMPILATION)


def test_a_worker_that_was_warm_does_not_outlive_the_switch(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(DECLARED["exceptions"]))
        assert await keep.call("f") is None
        await configure(keep)
        with refused(ErrorCode.FEATURE_OFF):
            await keep.call("f")

    play(tmp_path, scenario, "exceptions")


def test_workloads_with_and_without_features_follow_each_other_in_one_keep(tmp_path: Path) -> None:
    needing = """(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (type $s (struct (field i32))) (memory (export "memory") 1)
      (func (export "_start") (call $exit (struct.get $s 0 (struct.new $s (i32.const 7))))))"""

    async def scenario(keep: Execution) -> None:
        for _ in range(2):
            await keep.load(wat(RETURNS))
            assert ending(await keep.run()).code == 0
            await keep.load(wat(needing))
            assert ending(await keep.run()).code == 7

    play(tmp_path, scenario, "gc")


def test_a_workload_that_needs_nothing_is_compiled_without_anything(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        info = await keep.load(guest("return_1"))
        assert info.features == ()
        # An engine with nothing switched on takes code only that was compiled so.
        (compiled,) = (tmp_path / "workload").glob("*.cwasm")
        Module.map(Engine(), compiled).close()

    play(tmp_path, scenario, *WasmFeature)


def test_a_memory_of_64_bits_grows_up_to_the_limit_of_the_run_and_no_further(tmp_path: Path) -> None:
    text = """(module (memory (export "memory") i64 1) (func (export "_start")
      (loop $again (br_if $again (i64.ne (memory.grow (i64.const 1)) (i64.const -1))))
      (i64.store (i64.sub (i64.mul (memory.size) (i64.const 65536)) (i64.const 8)) (i64.const 1))
      (if (i64.ne (memory.size) (i64.const 256)) (then unreachable))))"""

    async def scenario(keep: Execution) -> None:
        await keep.load(wat(text))
        assert ending(await keep.run(RunRequest(memory=16 * MiB))).code == 0

    play(tmp_path, scenario, "memory64")


def test_a_memory_of_64_bits_that_starts_beyond_the_limit_ends_with_the_reason_memory(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat('(module (memory i64 0x100000000) (func (export "_start")))'))
        assert ending(await keep.run()).reason == ExitReason.MEMORY

    play(tmp_path, scenario, "memory64")


def test_wasi_preview_1_works_on_a_memory_of_64_bits(tmp_path: Path) -> None:
    text = """(module
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") i64 1)
      (data (i64.const 0) "\\10\\00\\00\\00\\05\\00\\00\\00") (data (i64.const 16) "hello")
      (func (export "_start") (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))
        (then unreachable))))"""

    async def scenario(keep: Execution) -> None:
        await keep.load(wat(text))
        run = await keep.run()
        assert (ending(run).code, await keep.stdout(run)) == (0, b"hello")

    play(tmp_path, scenario, "memory64")


def test_sockets_are_refused_to_memories_of_64_bits_by_name(tmp_path: Path) -> None:
    files = (NullFile(), NullFile(), NullFile(), ListenFile(name="web", prot=SocketProtocol.TCP, port=4433))
    on = (WasmFeature.MEMORY64,)

    async def scenario(keep: Execution) -> None:
        module = wat('(module (memory (export "memory") i64 1) (func (export "_start")))')
        await keep.configuration.replace(WorkloadConfiguration(features=on, files=files[:3]))
        await keep.load(module)
        await keep.configuration.replace(WorkloadConfiguration(features=on, files=files))
        for attempt in (keep.run, lambda: keep.load(module)):
            with pytest.raises(RefusalError, match="memory64") as refusal:
                await attempt()
            assert refusal.value.code == ErrorCode.WORKLOAD_NOT_RUNNABLE

    execute(tmp_path, scenario, spec(network=NetworkPolicy(listen=(4433,), egress=NO_NETWORK.egress)))


def test_a_program_that_fills_the_collected_heap_ends_with_the_reason_memory(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(ENDLESS_LIST))
        exit_ = ending(await keep.run(RunRequest(memory=16 * MiB)))
        assert exit_.reason == ExitReason.MEMORY
        assert "GC heap out of memory" in str(exit_.message)
        with refused(ErrorCode.CALL_MEMORY):
            await keep.call("_start", memory=16 * MiB)

    play(tmp_path, scenario, "gc")


def test_an_array_longer_than_any_memory_is_a_trap_with_a_name(tmp_path: Path) -> None:
    text = """(module (type $a (array i64)) (func (export "_start")
      (drop (array.new $a (i64.const 1) (i32.const -1)))))"""

    async def scenario(keep: Execution) -> None:
        await keep.load(wat(text))
        exit_ = ending(await keep.run())
        assert (exit_.reason, exit_.trap) == (ExitReason.TRAP, "allocation-too-large")

    play(tmp_path, scenario, "gc")


def test_objects_that_are_not_used_any_more_are_collected_within_the_limit(tmp_path: Path) -> None:
    text = """(module (type $s (struct (field i64))) (func (export "_start") (local $i i32)
      (loop $again (drop (struct.new $s (i64.const 1))) (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $again (i32.lt_u (local.get $i) (i32.const 1000000))))))"""

    async def scenario(keep: Execution) -> None:
        await keep.load(wat(text))
        assert ending(await keep.run(RunRequest(memory=4 * MiB))).code == 0

    play(tmp_path, scenario, "gc")


def test_an_endless_program_with_collected_objects_is_ended_by_its_time_limit(tmp_path: Path) -> None:
    text = """(module (type $s (struct (field i64))) (func (export "_start")
      (loop $again (drop (struct.new $s (i64.const 1))) (br $again))))"""

    async def scenario(keep: Execution) -> None:
        await keep.load(wat(text))
        assert ending(await keep.run(RunRequest(timeout=0.5))).reason == ExitReason.TIMEOUT
        with refused(ErrorCode.CALL_TIMEOUT):
            await keep.call("_start", timeout=0.5)

    play(tmp_path, scenario, "gc")


def test_an_exception_is_caught_by_the_guest_or_is_a_trap_with_a_name(tmp_path: Path) -> None:
    text = """(module (tag $e (param i32))
      (func (export "caught") (result i32)
        (block $handler (result i32) (try_table (catch $e $handler) (throw $e (i32.const 7))) (i32.const 1)))
      (func (export "_start") (throw $e (i32.const 7))))"""

    async def scenario(keep: Execution) -> None:
        await keep.load(wat(text))
        assert await keep.call("caught") == 7
        exit_ = ending(await keep.run())
        assert (exit_.reason, exit_.trap) == (ExitReason.TRAP, "uncaught-exception")
        assert exit_.backtrace

    play(tmp_path, scenario, "exceptions")


def test_a_small_module_whose_objects_become_gigabytes_of_code_hits_the_limits_of_compilation(tmp_path: Path) -> None:
    # Four bytes each, and a store for every field.
    makes = "(drop (struct.new_default $large))" * 20_000
    text = f"""(module (type $large (struct {"(field i64)" * 9999})) (func (export "f") {makes}))"""
    limits = CompileLimits(cpu_seconds=1)

    async def scenario(keep: Execution) -> None:
        with refused(ErrorCode.COMPILE_LIMIT):
            await keep.load(wat(text))
        await keep.load(wat(RETURNS))

    play(tmp_path, scenario, "gc", compile_limits=limits)
