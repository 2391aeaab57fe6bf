"""Text for people: datasets, runs and evaluations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.scores import normalized_score, reference_name
from jaxdt.metrics import read_evaluations, read_lines
from jaxdt.run.directory import RunDirectory, read_record
from jaxdt.types import Evaluation


def dataset_report(name: str, store: EpisodeStore) -> str:
    """Sizes, returns and lengths of a dataset."""
    returns, lengths = store.returns, store.lengths
    rows = [
        ("environment", store.env_id or "not named"),
        ("episodes", f"{store.num_episodes} ({int(store.terminations.sum())} terminated, the rest cut off)"),
        ("steps", f"{store.num_steps}"),
        ("observations", f"{list(store.observations.shape[1:])} {store.observations.dtype}"),
        ("actions", f"[{store.action_dim}] in [{store.actions.min():g}, {store.actions.max():g}]"),
        ("return", f"{returns.mean():.1f} ± {returns.std():.1f}, from {returns.min():.1f} to {returns.max():.1f}"),
        ("return quantiles", "20 % {:.1f}, 50 % {:.1f}, 80 % {:.1f}".format(*np.quantile(returns, (0.2, 0.5, 0.8)))),
        ("length", f"{lengths.mean():.1f}, from {lengths.min()} to {lengths.max()}"),
    ]
    scores = normalized_score(store.env_id, returns)
    if scores is not None:
        rows.append(("D4RL score", f"{scores.mean():.1f} (reference {reference_name(store.env_id)})"))
    if store.mapped_in is not None:
        rows.append(("mapped from", f"{store.mapped_in} (delete it to have that room back)"))
    return _listing(name, rows)


def run_report(path: Path) -> str:
    """What a run is, how far it is, and its newest evaluation."""
    from jaxdt.checkpoint import checkpoint_steps, read_metadata

    run = RunDirectory(path)
    record = read_record(run)
    metrics, (evaluations, failed) = read_lines(run.metrics), read_evaluations(run.evaluations)
    steps = checkpoint_steps(run.checkpoints)
    model, data = record.model, record.data
    rows = [
        ("preset", record.config.preset),
        ("environment", record.config.env or "none"),
        ("model", f"width {model.width}, {model.num_layers} layers, context {model.context_length}"),
    ]
    if "imported_from" in data:
        rows.append(("imported from", data["imported_from"]))
        rows.append(("targets", ", ".join(f"{target:g}" for target in record.config.targets or ()) or "none known"))
    else:
        spec = data["spec"] or "arrays"
        rows += [
            ("data", f"{spec}: {data['num_episodes']} episodes, {data['num_steps']} steps"),
            ("data returns", f"{data['return_mean']:.1f}, from {data['return_min']:.1f} to {data['return_max']:.1f}"),
            ("updates", f"{metrics[-1]['step'] if metrics else 0} of {record.config.steps}"),
            ("loss", f"{metrics[-1]['loss']:.4f}" if metrics else "none yet"),
        ]
    rows.append(("checkpoints", ", ".join(map(str, steps)) or "none yet"))
    note = read_metadata(run.checkpoints, steps[-1]) if steps else {}
    if note.get("best_score") is not None:
        rows.append(("best return", f"{note['best_score']:.1f} at target {note['best_target']:g}"))
    if failed:
        newest_failure = f"after {failed[-1]['step']} updates: {failed[-1]['failed']}"
        rows.append(("failed evaluations", f"{len(failed)}, the newest {newest_failure}"))
    text = _listing(str(path), rows)
    newest = [e for e in evaluations if e["step"] == evaluations[-1]["step"]]
    if newest:
        text += "\n" + _evaluation_rows(f"after {newest[0]['step']} updates", newest)
    if run.returns_plot.exists():
        text += f"\nplots: {run.loss_plot}, {run.returns_plot}"
    return text


def evaluation_table(name: str, evaluations: Sequence[Evaluation]) -> str:
    """One row a target."""
    return _evaluation_rows(name, [evaluation.to_json() for evaluation in evaluations])


def runs_table(results: Sequence[Sequence[Evaluation]]) -> str:
    """Mean ± sample standard deviation over runs of each target's mean return."""
    rows = []
    for of_target in zip(*results, strict=True):
        means = np.array([evaluation.return_mean for evaluation in of_target])
        scores = [evaluation.normalized_mean for evaluation in of_target if evaluation.normalized_mean is not None]
        score = f"{np.mean(scores):.1f} ± {np.std(scores, ddof=1):.1f}" if scores else "-"
        rows.append((f"{of_target[0].target:g}", f"{means.mean():.1f} ± {means.std(ddof=1):.1f}", score))
    head = ("target", "return, mean ± std over runs", "D4RL score")
    return _table(f"{len(results)} runs", head, rows)


def evaluations_document(runs: Sequence[str], results: Sequence[Sequence[Evaluation]]) -> list[dict[str, Any]]:
    """For `--json`: a record a run and target."""
    return [
        {"run": name, **evaluation.to_json()}
        for name, evaluations in zip(runs, results, strict=True)
        for evaluation in evaluations
    ]


def _evaluation_rows(name: str, evaluations: Sequence[dict[str, Any]]) -> str:
    reference = evaluations[0]["reference"]
    head = ("target", "return mean", "std", "length", f"D4RL score ({reference})" if reference else "D4RL score")
    rows = [
        (
            f"{e['target']:.1f}",
            f"{e['return_mean']:.1f}",
            f"{e['return_std']:.1f}",
            f"{np.mean(e['lengths']):.0f}",
            "-" if e["normalized_mean"] is None else f"{e['normalized_mean']:.1f}",
        )
        for e in evaluations
    ]
    return _table(f"{name}, {len(evaluations[0]['returns'])} episodes a target", head, rows)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    return "\n".join([title, *("  " + line for line in lines)])


def _listing(title: str, rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join([title, *(f"  {name.ljust(width)}  {value}" for name, value in rows)])
