"""`jaxdt import` and `jaxdt export`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from jaxdt.cli.parsing import parse
from jaxdt.cli.report import run_report
from jaxdt.config import Context, Sampling
from jaxdt.errors import JaxdtError


@dataclasses.dataclass(frozen=True)
class ImportArguments:
    """Turn a Hugging Face or original checkpoint into a run directory that evaluates, acts and trains on."""

    source: Positional[Annotated[str, arg(metavar="SOURCE")]]
    """A directory with config.json and model.safetensors or pytorch_model.bin, a hub name, or a .pt or .pth file of the
    Decision Transformer's (of Atari too), the Online Decision Transformer's or the Trajectory Transformer's authors."""
    out: Positional[Annotated[Path, arg(metavar="OUT")]]
    """Run directory to write; it must be absent or empty."""
    stats: str | None = None
    """Normalisation: a .json file with state_mean and state_std, or a dataset; None: the ones that are known."""
    env: str | None = None
    """Gymnasium id, or `mjx:` and one, to evaluate in; None: the one that is known of the source or the statistics."""
    return_scale: float | None = None
    """Returns-to-go are divided by this, in reward units; None: the one that is known, else 1000."""
    targets: tuple[float, ...] | None = None
    """Target returns to evaluate at, in reward units; None: the known ones, or quantiles of the dataset's returns."""
    context_length: int | None = None
    """Environment steps that the policy sees; None: the one that is known, else 20."""
    num_heads: int | None = None
    """Attention heads, which no state dict tells: needed for the authors' Decision Transformers of vectors (1) and
    online ones (4); None: 8 of their Atari weights, 4 of a Trajectory Transformer, and what a config.json says."""
    discretizer: str | None = None
    """Of a Trajectory Transformer: an .npz with the `edges` of its bins, which no checkpoint has."""
    dataset: str | None = None
    """Of a Trajectory Transformer, instead: the episodes that it was trained on, to compute the edges from."""
    action_dim: int | None = None
    """Of a Trajectory Transformer with `--env none`: numbers of an action."""


@dataclasses.dataclass(frozen=True)
class ExportArguments:
    """Write a run as a directory that other programs load, with what they need to know."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """Run directory."""
    out: Positional[Annotated[Path, arg(metavar="OUT")]]
    """Directory to write; it must be absent or empty."""
    to: Literal["huggingface", "stablehlo", "onnx"] = "huggingface"
    """huggingface: weights and card of a `transformers.DecisionTransformerModel`; stablehlo: the acting step for jax
    alone (needs the `serve` extra); onnx: the same for ONNX Runtime (needs the `onnx` extra)."""
    checkpoint: Literal["latest", "best"] = "latest"
    """Which weights; best: of the highest mean return at the run's highest target, or where training had no environment
    of the least error on held-out episodes."""
    context: Context | None = None
    """Of stablehlo and onnx: exact or cached acting, see `jaxdt evaluate`; None: the run's."""
    sampling: Sampling | None = None
    """Of stablehlo and onnx, which draw nothing: greedy for a run that was evaluated by sampling; None: the run's."""
    push: str | None = None
    """Also upload to this name on the Hugging Face hub (owner/name); log in with `hf auth login` first."""
    license: str | None = None
    """Of huggingface: of the weights, for the model card, as the hub abbreviates it (mit, apache-2.0); None: none."""


def import_command(arguments: list[str]) -> None:
    parsed = parse(ImportArguments, arguments, "jaxdt import")
    from jaxdt.progress import console_progress
    from jaxdt.run.importing import import_run

    out = import_run(
        parsed.source,
        parsed.out,
        stats=parsed.stats,
        env=parsed.env,
        return_scale=parsed.return_scale,
        targets=parsed.targets,
        context_length=parsed.context_length,
        num_heads=parsed.num_heads,
        discretizer=parsed.discretizer,
        dataset=parsed.dataset,
        action_dim=parsed.action_dim,
        progress=console_progress(),
        command=["jaxdt", "import", *arguments],
    )
    print(run_report(out))


def export_command(arguments: list[str]) -> None:
    parsed = parse(ExportArguments, arguments, "jaxdt export")
    if not parsed.run.is_dir():
        raise JaxdtError(f"{parsed.run} does not exist; give a run directory.")
    acting = {"context": parsed.context, "sampling": parsed.sampling}
    if parsed.to == "huggingface":
        if any(acting.values()):
            raise JaxdtError("--context and --sampling are for --to stablehlo and onnx; leave them out.")
        from jaxdt.run.exporting import to_huggingface

        named = {"push": parsed.push, "license": parsed.license}
        out = to_huggingface(parsed.run, parsed.out, checkpoint=parsed.checkpoint, **named)
    else:
        if parsed.push is not None or parsed.license is not None:
            raise JaxdtError("--push and --license are for --to huggingface; leave them out.")
        from jaxdt.run.serving import to_onnx, to_stablehlo

        write = to_onnx if parsed.to == "onnx" else to_stablehlo
        out = write(parsed.run, parsed.out, checkpoint=parsed.checkpoint, **acting)
    print("\n".join(f"wrote {path}" for path in sorted(out.iterdir())))
    if parsed.push is not None:
        print(f"pushed to {parsed.push}")
