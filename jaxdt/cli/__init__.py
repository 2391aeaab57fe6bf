"""The `jaxdt` command: parses, calls, prints. Exit codes: 0 done, 1 failed, 2 bad input, 130/143 stopped."""

import gc
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from jaxdt import __version__
from jaxdt.cli.comparing import compare_command, log_command
from jaxdt.cli.data import collect_command, convert_command, info_command
from jaxdt.cli.finetuning import finetune_command
from jaxdt.cli.playing import evaluate_command
from jaxdt.cli.training import train_command
from jaxdt.cli.weights import export_command, import_command
from jaxdt.errors import JaxdtError, RunError, StoppedError, did_you_mean


USAGE = """usage: jaxdt COMMAND [OPTIONS]

The Decision Transformer and its kin in JAX: offline episodes in, a policy out, steered by a target return.

commands:
  train [PRESET]       train on offline episodes, evaluate, leave a run directory
  finetune RUN         go on with a trained run online: explore, remember, train
  evaluate RUN ...     play episodes and print what they reach
  compare RUN ...      set methods side by side: a table and a figure, with intervals over seeds
  log RUN ... --to X   give a run's numbers to TensorBoard, Weights & Biases or Trackio
  collect              record episodes of a behaviour policy
  convert SPEC OUT     write a dataset as .npz, .parquet or .hdf5
  import SOURCE OUT    turn a Hugging Face or original checkpoint into a run directory
  export RUN OUT       write a run as a Hugging Face model, or as StableHLO or ONNX to serve
  info PATH            describe a dataset or a run directory

options:
  -h, --help           this text; `jaxdt COMMAND --help` explains every option of a command
  --version            print the version
  --install-completion [SHELL]
                       let bash, zsh or fish complete commands, presets and options; default: $SHELL
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and exits with its code."""
    # Importing and tracing make some millions of objects that stay: looking among them for garbage took a tenth of it.
    gc.set_threshold(500_000, 10, 10)
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Runs the command and returns its exit code."""
    warnings.showwarning = _show_warning
    commands: dict[str, Callable[[list[str]], None]] = {
        "train": train_command,
        "finetune": finetune_command,
        "evaluate": evaluate_command,
        "compare": compare_command,
        "log": log_command,
        "collect": collect_command,
        "convert": convert_command,
        "import": import_command,
        "export": export_command,
        "info": info_command,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    if arguments[0] == "--install-completion":
        commands["--install-completion"] = _install_completion
    if arguments[0] not in commands:
        near = did_you_mean(arguments[0], commands)
        return _fail(f"{arguments[0]!r} is not a command{near}; choose one of {', '.join(commands)}.", 2)
    try:
        commands[arguments[0]](arguments[1:])
        sys.stdout.flush()
    except JaxdtError as error:
        return _fail(str(error), 2)
    except StoppedError as error:
        print(f"jaxdt: {error}", file=sys.stderr)
        return 128 + error.signal_number
    except BrokenPipeError:  # `jaxdt info RUN | head -3`: who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return 0
    except (RunError, OSError) as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("interrupted.", 130)
    return 0


def _install_completion(arguments: list[str]) -> None:
    from jaxdt.cli.completion import install

    print(install(arguments))


def _show_warning(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
    del category, filename, lineno, file, line
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(message))  # Gymnasium paints its own
    print(f"jaxdt: warning: {plain}", file=sys.stderr)


def _fail(message: str, code: int) -> int:
    print(f"jaxdt: error: {' '.join(message.split())}", file=sys.stderr)
    return code
