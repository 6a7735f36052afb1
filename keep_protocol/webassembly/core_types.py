"""Types in a core module's binary form, and which features they belong to; core specification 3.0, section 5.3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from keep_protocol.states import WasmFeature
from keep_protocol.webassembly.errors import MalformedError
from keep_protocol.webassembly.features import CUSTOM_PAGE_SIZES, STACK_SWITCHING, THREADS
from keep_protocol.webassembly.reading import Reader

_VALUE_TYPES: Final = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128"}
_HEAP_TYPES: Final = {
    0x70: ("funcref", None),
    0x6F: ("externref", None),
    0x69: ("exnref", WasmFeature.EXCEPTIONS),
    0x74: ("nullexnref", WasmFeature.EXCEPTIONS),
    0x6E: ("anyref", WasmFeature.GC),
    0x6D: ("eqref", WasmFeature.GC),
    0x6C: ("i31ref", WasmFeature.GC),
    0x6B: ("structref", WasmFeature.GC),
    0x6A: ("arrayref", WasmFeature.GC),
    0x71: ("nullref", WasmFeature.GC),
    0x72: ("nullexternref", WasmFeature.GC),
    0x73: ("nullfuncref", WasmFeature.GC),
    0x68: ("contref", STACK_SWITCHING),
    0x75: ("nullcontref", STACK_SWITCHING),
}
_PACKED: Final = frozenset({0x78, 0x77})
_REF_NULL, _REF = 0x63, 0x64
_SHARED: Final = 0x65

_FUNCTION, _STRUCT, _ARRAY, _CONTINUATION = 0x60, 0x5F, 0x5E, 0x5D
_SUB, _SUB_FINAL, _GROUP = 0x50, 0x4F, 0x4E

_HAS_MAXIMUM, _IS_SHARED, _HAS_64_BITS, _HAS_PAGE_SIZE = 1, 2, 4, 8


@dataclass(frozen=True, slots=True)
class FunctionType:
    """Value types by their names in the text format."""

    parameters: tuple[str, ...]
    results: tuple[str, ...]

    def __str__(self) -> str:
        taken = f"func({', '.join(self.parameters)})"
        match self.results:
            case ():
                return taken
            case (one,):
                return f"{taken} -> {one}"
            case many:
                return f"{taken} -> ({', '.join(many)})"


class CoreTypes:
    """Reads types, and notes the names of features without which there would be none of these."""

    def __init__(self) -> None:
        self.features: set[str] = set()

    def section(self, section: Reader) -> list[FunctionType | None]:
        """All types of a type section; None for those that are no function's."""
        types: list[FunctionType | None] = []
        for _ in range(section.count()):
            if (form := section.byte()) == _GROUP:
                self.features.add(WasmFeature.GC)
                types += [self._type(section, section.byte()) for _ in range(section.count())]
            else:
                types.append(self._type(section, form))
        return types

    def value_type(self, reader: Reader) -> str:
        """The name of a value type. Raises `MalformedError`."""
        code = reader.byte()
        if name := _VALUE_TYPES.get(code):
            return name
        if code in (_REF_NULL, _REF):
            if code == _REF:
                self.features.add(WasmFeature.GC)
            self._heap_type(reader)
            return "ref"
        return self._named_reference(code, reader)

    def limits(self, reader: Reader) -> None:
        """Those of a memory or a table."""
        flags = reader.byte()
        if flags & _IS_SHARED:
            self.features.add(THREADS)
        if flags & _HAS_64_BITS:
            self.features.add(WasmFeature.MEMORY64)
        if flags & _HAS_PAGE_SIZE:
            self.features.add(CUSTOM_PAGE_SIZES)
        for _ in range(1 + bool(flags & _HAS_MAXIMUM) + bool(flags & _HAS_PAGE_SIZE)):
            reader.skip_number()

    def _type(self, reader: Reader, form: int) -> FunctionType | None:
        if form in (_SUB, _SUB_FINAL):
            self.features.add(WasmFeature.GC)
            for _ in range(reader.count()):
                reader.skip_number()
            form = reader.byte()
        if form == _SHARED:
            self.features.add(THREADS)
            form = reader.byte()
        if form == _FUNCTION:
            parameters = tuple(self.value_type(reader) for _ in range(reader.count()))
            return FunctionType(parameters, tuple(self.value_type(reader) for _ in range(reader.count())))
        if form == _STRUCT:
            self.features.add(WasmFeature.GC)
            for _ in range(reader.count()):
                self._field(reader)
        elif form == _ARRAY:
            self.features.add(WasmFeature.GC)
            self._field(reader)
        elif form == _CONTINUATION:
            self.features.add(STACK_SWITCHING)
            reader.skip_number()
        else:
            raise MalformedError(f"it declares a type of an unknown form {form:#04x}")
        return None

    def _field(self, reader: Reader) -> None:
        if reader.peek() in _PACKED:
            reader.byte()
        else:
            self.value_type(reader)
        reader.byte()  # whether it can be changed

    def _heap_type(self, reader: Reader) -> None:
        code = reader.peek()
        if code in _HEAP_TYPES or code == _SHARED:
            self._named_reference(reader.byte(), reader)
        else:
            self.features.add(WasmFeature.GC)
            reader.skip_number()

    def _named_reference(self, code: int, reader: Reader) -> str:
        if code == _SHARED:
            self.features.add(THREADS)
            code = reader.byte()
        if (known := _HEAP_TYPES.get(code)) is None:
            raise MalformedError(f"it has an unknown value type {code:#04x}")
        name, feature = known
        if feature is not None:
            self.features.add(feature)
        return name
