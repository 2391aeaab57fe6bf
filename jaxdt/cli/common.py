"""What commands that compute need: a cache of compiled programs, and a line that names the device."""

from pathlib import Path

from jaxdt import __version__
from jaxdt.files import private_cache


def keep_compiled_programs() -> None:
    """Later starts of the command find what this one compiles, where JAX has not been told of a cache already.

    Not for the GPUs of several processes: the first alone writes, and XLA has each of them measure a part of what it
    compiles, so that one which does not find what another has found might wait for that other's part.

    JAX runs what lies in its cache, so that is a directory which nobody else may write to. Evaluation in Gymnasium
    is compiled at each start: JAX keeps no programs with host callbacks.
    """
    import jax

    from jaxdt import hosts

    if hosts.count() > 1 and jax.default_backend() == "gpu":
        return
    directory = private_cache("compiled")
    if jax.config.jax_compilation_cache_dir is None and directory is not None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(directory))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # many small programs take long, too


def device_line() -> str:
    """One line naming the device, and a second one when a GPU is there that jax cannot use."""
    import jax

    kind = jax.devices()[0].device_kind
    line = f"jaxdt {__version__}, jax {jax.__version__} on {jax.device_count()} x {kind} ({jax.default_backend()})"
    if jax.default_backend() == "cpu" and any(Path("/dev").glob("nvidia[0-9]*")):
        line += "\nwarning: this machine has an NVIDIA GPU that jax cannot use; pip install 'jaxdt[cuda]'"
    return line
