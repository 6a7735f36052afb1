"""What is remembered of a machine's console: the end, and nothing that a terminal would obey."""

from __future__ import annotations

from keep_loader.machine.console import MAX_SIZE, Console


def test_the_last_lines_are_those_that_say_something() -> None:
    console = Console()
    console.feed(b"one\r\n\r\ntwo\n  \nthree")
    assert console.last_lines(2) == ["two", "three"]


def test_what_a_guest_floods_it_with_does_not_grow_it() -> None:
    console = Console()
    for _ in range(64):
        console.feed(b"x" * MAX_SIZE)
    console.feed(b"\nthe end\n")
    assert sum(map(len, console.last_lines(1000))) <= MAX_SIZE
    assert console.last_lines(1) == ["the end"]


def test_a_line_without_end_is_cut() -> None:
    console = Console()
    console.feed(b"y" * MAX_SIZE)
    assert [len(line) for line in console.last_lines(5)] == [300]


def test_control_characters_are_shown_and_not_passed_on() -> None:
    console = Console()
    console.feed(b"\x1b[2Jgone\x07\xff\n")
    (line,) = console.last_lines(1)
    assert line == "\\x1b[2Jgone\\x07\N{REPLACEMENT CHARACTER}"


def test_a_panic_is_shown_however_much_the_kernel_says_after_it() -> None:
    console = Console()
    console.feed(b"fine\n[ 1.5] Kernel panic - not syncing: no init\n" + b"".join(b"call %d\n" % n for n in range(40)))
    assert console.last_lines(2) == ["[ 1.5] Kernel panic - not syncing: no init", "call 38", "call 39"]
