"""`keepctl completion`: scripts for bash, zsh and fish, made from the parsers themselves."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from testers.keepctl.command import add_command

if TYPE_CHECKING:
    from testers.keepctl.command import Subparsers

Words = dict[str, tuple[str, ...]]
"""For each path of sub-commands (`` for none, `identity new`), what may come next."""

SHELLS = ("bash", "zsh", "fish")


def register(subparsers: Subparsers, parser: argparse.ArgumentParser) -> None:
    """Declare this command; `parser` is the one whose words are completed."""
    completion = add_command(
        subparsers,
        "completion",
        "print a completion script for your shell",
        _handler(parser),
        examples=(
            'eval "$(keepctl completion bash)"',
            "keepctl completion zsh > ~/.zfunc/_keepctl",
            "keepctl completion fish > ~/.config/fish/completions/keepctl.fish",
        ),
    )
    completion.add_argument("shell", choices=SHELLS)


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """The script for one of `SHELLS`."""
    words = words_of(parser)
    makers: dict[str, Callable[[Words], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    return makers[shell](words)


def words_of(parser: argparse.ArgumentParser, path: str = "") -> Words:
    """Options and sub-commands of a parser and of all below it."""
    commands: dict[str, argparse.ArgumentParser] = {}
    options: list[str] = []
    for action in parser._actions:  # argparse has no public way to list them
        if isinstance(action, argparse._SubParsersAction):
            commands.update(action.choices)
        elif not action.option_strings and action.choices:
            options.extend(map(str, action.choices))
        options.extend(option for option in action.option_strings if option.startswith("--"))
    words: Words = {path: (*commands, *options)}
    for name, below in commands.items():
        words |= words_of(below, f"{path} {name}".strip())
    return words


def _handler(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    def handle(options: argparse.Namespace) -> int:
        print(script(options.shell, parser), end="")
        return 0

    return handle


def _cases(words: Words) -> str:
    return "\n".join(f'        "{path}") words="{" ".join(choices)}" ;;' for path, choices in words.items())


def _bash(words: Words) -> str:
    return f"""\
_keepctl() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" path="" known="{_known(words)}" word words=""
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$known" in *"|${{path:+$path }}$word|"*) path="${{path:+$path }}$word" ;; esac
    done
    case "$path" in
{_cases(words)}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _keepctl keepctl
"""


def _zsh(words: Words) -> str:
    return f"""\
#compdef keepctl
_keepctl() {{
    local path_="" known="{_known(words)}" word words=""
    for word in "${{(@)words_[2,CURRENT-1]}}"; do
        case "$known" in *"|${{path_:+$path_ }}$word|"*) path_="${{path_:+$path_ }}$word" ;; esac
    done
    case "$path_" in
{_cases(words)}
    esac
    compadd -- ${{=words}}
    _files
}}
compdef _keepctl keepctl
"""


def _fish(words: Words) -> str:
    lines = ["complete -c keepctl -n __fish_use_subcommand -f"]
    for path, choices in words.items():
        seen = " ".join(f"; and __fish_seen_subcommand_from {name}" for name in path.split())
        condition = seen.removeprefix("; and ") or "__fish_use_subcommand"
        for choice in choices:
            what = f"-l {choice.removeprefix('--')}" if choice.startswith("--") else f"-a {choice}"
            lines.append(f"complete -c keepctl -n '{condition}' {what}")
    return "\n".join(lines) + "\n"


def _known(words: Words) -> str:
    return "|" + "|".join(filter(None, words)) + "|"
