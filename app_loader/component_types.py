"""The types of components' functions as WIT has them; `str` gives them as text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Primitive:
    """A number, `bool`, `char` or `string`."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class ListType:
    """`list<T>`"""

    element: WitType

    def __str__(self) -> str:
        return f"list<{self.element}>"


@dataclass(frozen=True, slots=True)
class RecordType:
    """`record`: fields by name, in order."""

    fields: tuple[tuple[str, WitType], ...]

    def __str__(self) -> str:
        return "record {" + ", ".join(f"{name}: {kind}" for name, kind in self.fields) + "}"


@dataclass(frozen=True, slots=True)
class TupleType:
    """`tuple<T, …>`"""

    items: tuple[WitType, ...]

    def __str__(self) -> str:
        return f"tuple<{', '.join(map(str, self.items))}>"


@dataclass(frozen=True, slots=True)
class VariantType:
    """`variant`: cases by name, each with a value or None."""

    cases: tuple[tuple[str, WitType | None], ...]

    def __str__(self) -> str:
        return "variant {" + ", ".join(n if kind is None else f"{n}({kind})" for n, kind in self.cases) + "}"


@dataclass(frozen=True, slots=True)
class EnumType:
    """`enum`: one of these names."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return "enum {" + ", ".join(self.names) + "}"


@dataclass(frozen=True, slots=True)
class FlagsType:
    """`flags`: any of these names."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return "flags {" + ", ".join(self.names) + "}"


@dataclass(frozen=True, slots=True)
class OptionType:
    """`option<T>`"""

    some: WitType

    def __str__(self) -> str:
        return f"option<{self.some}>"


@dataclass(frozen=True, slots=True)
class ResultType:
    """`result<T, E>`, either of which may be absent."""

    ok: WitType | None
    error: WitType | None

    def __str__(self) -> str:
        match self.ok, self.error:
            case None, None:
                return "result"
            case ok, None:
                return f"result<{ok}>"
            case ok, error:
                return f"result<{'_' if ok is None else ok}, {error}>"


@dataclass(frozen=True, slots=True)
class UnsupportedType:
    """What has no form in JSON."""

    name: str

    def __str__(self) -> str:
        return self.name


WitType = (
    Primitive
    | ListType
    | RecordType
    | TupleType
    | VariantType
    | EnumType
    | FlagsType
    | OptionType
    | ResultType
    | UnsupportedType
)


@dataclass(frozen=True, slots=True)
class ComponentFunctionType:
    """Parameters by name, in order, and the one result."""

    parameters: tuple[tuple[str, WitType], ...]
    result: WitType | None

    def __str__(self) -> str:
        taken = ", ".join(f"{name}: {kind}" for name, kind in self.parameters)
        return f"func({taken})" + ("" if self.result is None else f" -> {self.result}")
