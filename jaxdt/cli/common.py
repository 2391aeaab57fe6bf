"""What every command needs: parsing, and a line that names the device."""

from pathlib import Path
from typing import Any

import tyro

from jaxdt import __version__


def parse(kind: type, arguments: list[str], prog: str, default: Any = None) -> Any:
    extra = {} if default is None else {"default": default}
    return tyro.cli(kind, args=arguments, prog=prog, **extra)


def device_line() -> str:
    """One line naming the device, and a second one when a GPU is there that jax cannot use."""
    import jax

    kind = jax.devices()[0].device_kind
    line = f"jaxdt {__version__}, jax {jax.__version__} on {jax.device_count()} x {kind} ({jax.default_backend()})"
    if jax.default_backend() == "cpu" and any(Path("/dev").glob("nvidia[0-9]*")):
        line += "\nwarning: this machine has an NVIDIA GPU that jax cannot use; pip install 'jaxdt[cuda]'"
    return line
