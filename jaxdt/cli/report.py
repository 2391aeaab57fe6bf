"""Text for people: datasets, runs and evaluations."""

import datetime
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdt.config import TrainConfig
from jaxdt.config.shared import fitting_return_scale
from jaxdt.data.checks import shortened
from jaxdt.data.d4rl import normalized_score, reference_name, score_name
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.replay import FAILED_TRIES
from jaxdt.errors import JaxdtError
from jaxdt.loggers import read_evaluations, read_lines
from jaxdt.progress import decimals
from jaxdt.run.directory import RunDirectory, RunRecord, read_record
from jaxdt.run.finished import differences_from_preset, find_runs, printable, read_run
from jaxdt.run.seed_group import SeedGroup, read_summary, summarize
from jaxdt.types import Evaluation


_SHARES = (0.2, 0.5, 0.8)


def dataset_report(name: str, store: EpisodeStore) -> str:
    """Sizes, returns and lengths of a dataset."""
    returns, lengths, last = store.returns, store.lengths, store.offsets[1:] - 1
    form = decimals(returns.min(), returns.max())
    quantiles = [
        f"{share:.0%} {value:{form}}".replace("%", " %")
        for share, value in zip(_SHARES, np.quantile(returns, _SHARES), strict=True)
    ]
    rows = [
        ("environment", store.env_id or "not named"),
        *([("env_kwargs", json.dumps(store.env_kwargs))] if store.env_kwargs else []),
        ("episodes", f"{store.num_episodes} ({int(store.terminations[last].sum())} terminated, the rest cut off)"),
        ("steps", f"{store.num_steps}"),
        ("observations", f"{list(store.observations.shape[1:])} {store.observations.dtype}"),
        ("actions", _actions(store)),
        (
            "return",
            f"{returns.mean():{form}} ± {returns.std():{form}}, from {returns.min():{form}} to {returns.max():{form}}",
        ),
        ("return quantiles", ", ".join(quantiles)),
        ("return scale", f"{fitting_return_scale(returns):g} would suit (--return-scale)"),
        ("length", f"{lengths.mean():.1f}, from {lengths.min()} to {lengths.max()}"),
    ]
    if len(store.constant_observations):
        shown = shortened(store.constant_observations)
        rows.append(("constant", f"observations {shown} never change (see --constant-std of jaxdt train)"))
    scores = normalized_score(store.env_id, returns, store.env_kwargs)
    if scores is not None:
        reference = reference_name(store.env_id)
        rows.append((score_name(reference), f"{scores.mean():.1f} (reference {reference})"))
    if store.mapped_in is not None:
        rows.append(("mapped from", f"{store.mapped_in} (delete it to have that room back)"))
    return _listing(name, rows)


def _actions(store: EpisodeStore) -> str:
    low, high = store.actions.min(), store.actions.max()
    if store.is_discrete:
        return f"{low} ... {high}, {len(np.unique(store.actions))} of them"
    return f"[{store.action_dim}] in [{low:g}, {high:g}]"


def run_report(path: Path) -> str:
    """What a run is, how far it is, and its newest evaluation; of several seeds' runs, what they share."""
    summary = read_summary(path)
    group = SeedGroup(path, summary["seeds"])
    return _seeds_report(group, summary["evaluations"]) if group.seeds else _run_report(group.runs[0])


def directory_report(path: Path) -> str | None:
    """The runs below a directory side by side; None where there are none."""
    try:
        paths = [run for _, run in find_runs([path])]
    except JaxdtError:
        return None
    rows = []
    for run in map(read_run, paths):
        config, last = run.record.config, run.last_evaluation if run.evaluations else None
        lines = read_lines(RunDirectory(run.path).metrics)
        reached = "-" if last is None else _mean_and_std(last, "return")
        target = "-" if last is None else _target(last["target"], ".1f")
        updates = f"{lines[-1].get('step') if lines else 0} of {config.steps}"
        name = os.path.relpath(run.path, path)
        rows.append((name, printable(config.preset), _environment(config), str(config.seed), updates, target, reached))
    head = ("run", "preset", "environment", "seed", "updates", "target", "return")
    return _table(f"{path}, {len(rows)} runs", head, rows)


def _run_report(run: RunDirectory) -> str:
    from jaxdt.checkpoint import checkpoint_steps, read_metadata

    record = read_record(run)
    metrics, (evaluations, failed) = read_lines(run.metrics), read_evaluations(run.evaluations)
    steps = checkpoint_steps(run.checkpoints)
    rows = _choices(record)
    if "imported_from" not in record.data:
        newest = metrics[-1] if metrics else {}
        rows += [
            ("updates", f"{_number(newest, 'step')} of {record.config.steps}"),
            ("loss", f"{_number(newest, 'loss'):.4f}" if metrics else "none yet"),
        ]
        for name in ("validation_loss", "validation_action_error"):
            if name in newest:
                rows.append((name.replace("_", " "), f"{_number(newest, name):.4f}"))
    rows += _time(record, metrics)
    rows.append(("checkpoints", ", ".join(map(str, steps)) or "none yet"))
    rows += _finetuning(run, record, metrics)
    note = read_metadata(run.checkpoints, steps[-1]) if steps else {}
    if note.get("best_score") is not None and record.config.env == "none":
        rows.append(("best validation action error", f"{-note['best_score']:.4f}"))
    elif note.get("best_score") is not None:
        at = "" if note["best_target"] is None else f" at target {note['best_target']:g}"
        rows.append(("best return", f"{note['best_score']:{decimals(note['best_score'])}}{at}"))
    if failed:
        newest_failure = f"after {failed[-1]['step']} updates: {failed[-1]['failed']}"
        rows.append(("failed evaluations", f"{len(failed)}, the newest {newest_failure}"))
    text = _listing(str(run.path), rows)
    played = [e for e in evaluations if e["step"] == evaluations[-1]["step"]]
    if played:
        text += "\n" + _evaluation_rows(f"after {played[0]['step']} updates", played)
    drawn = [path for path in sorted(run.plots.glob("*")) if path.suffix in (".png", ".svg", ".pdf")]
    if drawn:
        text += f"\nplots: {', '.join(map(str, drawn))}"
    return text


def _time(record: RunRecord, metrics: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """When it was begun, how often it was gone on with, and what it took; of older runs nothing."""
    made, rows = record.made_with, []
    if isinstance(made.get("started"), str):
        resumed = len(made["resumed"]) if isinstance(made.get("resumed"), list) else 0
        times = f", resumed {resumed} time{'s' * (resumed > 1)}" if resumed else ""
        rows.append(("started", f"{printable(made['started'])}{times}"))
    if metrics and "seconds" in metrics[-1]:
        rows.append(("took", f"{datetime.timedelta(seconds=round(metrics[-1]['seconds']))}"))
    return rows


def _finetuning(run: RunDirectory, record: RunRecord, metrics: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Of a run that was fine-tuned online."""
    if record.finetuning is None:
        return []
    from jaxdt.run.exploration import read_failures

    newest = metrics[-1] if metrics else {}
    rows = [
        ("fine-tuned from", f"{printable(record.finetuning.run)}, {record.finetuning.first_step} updates"),
        ("rounds", f"{_number(newest, 'round')} of {record.finetuning.config.rounds}"),
        ("environment steps", f"{_number(newest, 'environment_steps')}"),
    ]
    if metrics:
        explored = _number(newest, "exploration_return_mean")
        rows.append(("exploration", f"return {explored:{decimals(explored)}} in the newest round"))
    failures = read_failures(run.replay / FAILED_TRIES)
    if failures:
        rows.append(("failed rounds", f"{len(failures)} tries, the newest in round {failures[-1]['round']}"))
    return rows


def _number(line: dict[str, Any], name: str) -> int | float:
    """Of a line of metrics, 0 where there is none."""
    value = line.get(name, 0)
    if type(value) not in (int, float):
        raise JaxdtError(f"metrics.jsonl is damaged: {name} must be a number; got {value!r:.40}.")
    return value


def _seeds_report(group: SeedGroup, summaries: Sequence[dict[str, Any]]) -> str:
    records = [read_record(run) for run in group.runs if run.holds_run]
    lines = [lines[-1] for run in group.runs if (lines := read_lines(run.metrics))]
    rows = _choices(records[0]) if records else []
    rows.append(("seeds", ", ".join(map(str, group.seeds))))
    if records:
        done = [line["step"] - record.first_step for line, record in zip(lines, records, strict=False)]
        updates = min(done) if len(lines) == len(group.runs) else 0
        rows.append(("updates", f"{updates} of {(records[0].config.steps or 0) - records[0].first_step}"))
    rows.append(("loss", ", ".join(f"{line['loss']:.4f}" for line in lines) or "none yet"))
    rows.append(("checkpoints", ", ".join(map(str, group.steps)) or "none yet that all have"))
    text = _listing(str(group.path), rows)
    newest = [summary for summary in summaries if summary["step"] == summaries[-1]["step"]]
    if newest:
        first = newest[0]
        played = f"round {first['round']}" if "round" in first else f"{first['step']} updates"
        text += "\n" + _summary_rows(f"after {played}, {len(group.seeds)} seeds", newest)
    return text + f"\nruns: {', '.join(str(run.path) for run in group.runs)}"


def _choices(record: RunRecord) -> list[tuple[str, str]]:
    data, config = record.data, record.config
    limits = [("step limit", config.max_episode_steps), ("parallel environments", config.parallel_environments)]
    rows = [
        ("preset", config.preset),
        ("environment", _environment(config)),
        *((name, f"{limit}") for name, limit in limits if limit is not None),
        ("model", config.algorithm.summary),
    ]
    differing = differences_from_preset(config)
    if differing:
        rows.append(("other than preset", ", ".join(f"{name}={value}" for name, value in differing.items())))
    if "imported_from" in data:
        rows.append(("imported from", data["imported_from"]))
        rows.append(("targets", ", ".join(f"{target:g}" for target in config.targets or ()) or "none known"))
        return rows
    spec, made = data["spec"] or "arrays", record.made_with
    form = decimals(data["return_min"], data["return_max"])
    if {"devices", "device"} <= made.keys():
        rows.append(("trained on", f"{made['devices']} x {made['device']}"))
    return [
        *rows,
        ("data", f"{spec}: {data['num_episodes']} episodes, {data['num_steps']} steps"),
        (
            "data returns",
            f"{data['return_mean']:{form}}, from {data['return_min']:{form}} to {data['return_max']:{form}}",
        ),
        *([("data used", config.part_of_data)] if config.best_fraction < 1 else []),
    ]


def _environment(config: TrainConfig) -> str:
    kwargs = [printable(json.dumps(config.env_kwargs))] if config.env_kwargs else []
    return " ".join([printable(config.env or "none"), *kwargs])


def evaluation_table(name: str, evaluations: Sequence[Evaluation]) -> str:
    """One row a target."""
    return _evaluation_rows(name, [evaluation.to_json() for evaluation in evaluations])


def runs_table(results: Sequence[Sequence[Evaluation]]) -> str:
    """Mean ± sample standard deviation over runs of each target's mean return."""
    summaries = [
        summarize([evaluation.to_json() for evaluation in at_target]) for at_target in zip(*results, strict=True)
    ]
    return _summary_rows(f"{len(results)} runs", summaries)


def evaluations_document(runs: Sequence[str], results: Sequence[Sequence[Evaluation]]) -> list[dict[str, Any]]:
    """For `--json`: a record a run and target."""
    return [
        {"run": name, **evaluation.to_json()}
        for name, evaluations in zip(runs, results, strict=True)
        for evaluation in evaluations
    ]


def _evaluation_rows(name: str, evaluations: Sequence[dict[str, Any]]) -> str:
    reference = evaluations[0]["reference"]
    score = score_name(reference) + (f" ({reference})" if reference else "")
    head = ("target", "return mean", "std", "length", score)
    form = decimals(*(e[name] for e in evaluations for name in ("target", "return_mean", "return_std")))
    says_success = "success_rate" in evaluations[0]
    head += ("success",) * says_success
    rows = [
        (
            _target(e["target"], form),
            f"{e['return_mean']:{form}}",
            f"{e['return_std']:{form}}",
            f"{np.mean(e['lengths']):.0f}",
            "-" if e["normalized_mean"] is None else f"{e['normalized_mean']:.1f}",
            *([f"{e['success_rate']:.0%}"] if says_success else []),
        )
        for e in evaluations
    ]
    each = " a target" if evaluations[0]["target"] is not None else ""
    return _table(f"{name}, {len(evaluations[0]['returns'])} episodes{each}", head, rows)


def _summary_rows(title: str, summaries: Sequence[dict[str, Any]]) -> str:
    names = ["return", "normalized", *(["success"] if "success_mean" in summaries[0] else [])]
    head = ("target", "return, mean ± std over runs", score_name(summaries[0]["reference"]), "success")
    rows = [(_target(s["target"], "g"), *(_mean_and_std(s, name) for name in names)) for s in summaries]
    return _table(title, head[: 1 + len(names)], rows)


def _target(target: float | None, form: str) -> str:
    return "-" if target is None else format(target, form)


def _mean_and_std(summary: dict[str, Any], name: str) -> str:
    mean, std = summary[f"{name}_mean"], summary[f"{name}_std"]
    form = decimals(mean, std)
    return "-" if mean is None else f"{mean:{form}}" if std is None else f"{mean:{form}} ± {std:{form}}"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    return "\n".join([title, *("  " + line for line in lines)])


def _listing(title: str, rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join([title, *(f"  {name.ljust(width)}  {value}" for name, value in rows)])
