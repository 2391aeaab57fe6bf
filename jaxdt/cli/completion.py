"""`jaxdt --install-completion`: what a shell offers when Tab is pressed."""

import dataclasses
import os
import shlex
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional, Suppress

from jaxdt.cli.comparing import CompareArguments, LogArguments
from jaxdt.cli.data import CollectArguments, ConvertArguments, InfoArguments
from jaxdt.cli.finetuning import FinetuneArguments
from jaxdt.cli.playing import EvaluateArguments
from jaxdt.cli.training import TrainArguments
from jaxdt.cli.weights import ExportArguments, ImportArguments
from jaxdt.config import PRESETS
from jaxdt.errors import JaxdtError
from jaxdt.files import open_atomically, writing


COMMANDS: dict[str, type] = {
    "train": TrainArguments,
    "finetune": FinetuneArguments,
    "evaluate": EvaluateArguments,
    "compare": CompareArguments,
    "log": LogArguments,
    "collect": CollectArguments,
    "convert": ConvertArguments,
    "import": ImportArguments,
    "export": ExportArguments,
    "info": InfoArguments,
}
SHELLS = ("bash", "zsh", "fish")
_ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


def install(arguments: list[str]) -> str:
    """Writes the completion of a shell, by default that of $SHELL, and says where.

    Of bash and zsh a line is added to `.bashrc` or `.zshrc`, once; fish finds it by itself.
    """
    shell = arguments[0] if arguments else os.path.basename(os.environ.get("SHELL", ""))
    if shell not in SHELLS or len(arguments) > 1:
        got = " ".join(arguments) or shell or "none"
        raise JaxdtError(f"--install-completion is for {', '.join(SHELLS)}; got {got!r:.40}; name one of them.")
    home = Path.home()
    if shell == "fish":
        configuration = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
        script = configuration / "fish" / "completions" / "jaxdt.fish"
    else:
        script = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "jaxdt" / f"completion.{shell}"
    with writing(script):
        script.parent.mkdir(parents=True, exist_ok=True)
        with open_atomically(script) as file:
            file.write(script_for(shell))
        said = f"wrote {script}"
        if shell != "fish":
            settings = Path(os.environ.get("ZDOTDIR") or home) / ".zshrc" if shell == "zsh" else home / ".bashrc"
            line = b"source " + os.fsencode(shlex.quote(str(script)))
            before = settings.read_bytes() if settings.exists() else b""  # of any encoding
            if line not in before.splitlines():
                with settings.open("ab") as file:  # in place: it may be a link to somebody's dotfiles
                    file.write(b"\n" * (not before.endswith(b"\n") and bool(before)) + line + b"\n")
                said += f", and a line that reads it to {settings}"
    return f"{said}; it is there in the next {shell} that you open."


def script_for(shell: str) -> str:
    flags = {command: flags_of(kind) for command, kind in COMMANDS.items()}
    if shell == "fish":
        return _fish(flags)
    return _ZSH * (shell == "zsh") + _bash(flags)


def flags_of(kind: Any) -> dict[str, tuple[str, ...]]:
    """The flags of a dataclass of arguments and of those within it, each with the words it takes, if it names them."""
    if hasattr(kind, "__metadata__"):  # what else an Annotated has is no part of it
        return flags_of(kind.__origin__)
    if not dataclasses.is_dataclass(kind):
        return {flag: words for part in typing.get_args(kind) for flag, words in flags_of(part).items()}
    flags: dict[str, tuple[str, ...]] = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        marks = getattr(hint, "__metadata__", ())
        if Positional in marks or Suppress in marks or typing.get_origin(hint) is typing.ClassVar:
            continue
        within = flags_of(hint)
        flag = name.replace("_", "-")
        flags |= within or {f"--{flag}": _words(hint)}
        if hint is bool:
            flags[f"--no-{flag}"] = ()
    return flags


def _words(hint: Any) -> tuple[str, ...]:
    if typing.get_origin(hint) is Literal:
        return tuple(map(str, typing.get_args(hint)))
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return tuple(word for part in typing.get_args(hint) for word in _words(part)) if is_union else ()


def _bash(flags: Mapping[str, Mapping[str, tuple[str, ...]]]) -> str:
    values = "\n".join(
        f'    "{command} {flag}") offered="{" ".join(words)}" ;;'
        for command, known in flags.items()
        for flag, words in known.items()
        if words
    )
    names = "\n".join(f'    "{command} -"*) offered="{" ".join(known)} --help" ;;' for command, known in flags.items())
    return f"""# What jaxdt offers when Tab is pressed; jaxdt --install-completion writes it.
_jaxdt() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
  local command="${{COMP_WORDS[1]}}" offered=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    offered="{" ".join(flags)} --help --version --install-completion"
  else case "$command $before" in
{values}
    *) case "$command $current" in
{names}
    "train "*) if [ "$COMP_CWORD" -eq 2 ]; then offered="{" ".join(PRESETS)}"; fi ;;
    esac ;;
    esac
  fi
  COMPREPLY=()
  if [ -n "$offered" ]; then COMPREPLY=($(compgen -W "$offered" -- "$current")); fi
}}
complete -o default -F _jaxdt jaxdt
"""


def _fish(flags: Mapping[str, Mapping[str, tuple[str, ...]]]) -> str:
    lines = [f"complete -c jaxdt -f -n __fish_use_subcommand -a '{' '.join(flags)}'"]
    lines.append(f"complete -c jaxdt -n '__fish_seen_subcommand_from train' -a '{' '.join(PRESETS)}'")
    for command, known in flags.items():
        for flag, words in known.items():
            taken = f" -x -a '{' '.join(words)}'" if words else ""
            lines.append(f"complete -c jaxdt -n '__fish_seen_subcommand_from {command}' -l {flag[2:]}{taken}")
    return "# What jaxdt offers when Tab is pressed; jaxdt --install-completion writes it.\n" + "\n".join(lines) + "\n"
