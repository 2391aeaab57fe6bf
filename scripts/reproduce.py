"""Trains every method on every dataset with every seed and compares them: `python scripts/reproduce.py --help`."""

import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

import jaxdt
from jaxdt.errors import JaxdtError
from reproducing.plan import Arguments, Job, check_command, make_jobs, make_tasks, parse_method
from reproducing.published import D4RL_SETS, SCORES, SOURCES, Quality
from reproducing.running import places, run_jobs


def main() -> int:
    arguments = tyro.cli(Arguments, prog="python scripts/reproduce.py")
    try:
        methods = [parse_method(text) for text in arguments.methods]
        jobs = make_jobs(arguments, make_tasks(arguments), methods)
        for job in {job.method: job for job in jobs}.values():
            check_command(job)
        failed = run_jobs(jobs, places(arguments.workers))
        return _compare(arguments, jobs, failed)
    except (JaxdtError, OSError) as error:
        print(f"reproduce: error: {error}", file=sys.stderr)
        return 2


def _compare(arguments: Arguments, jobs: Sequence[Job], failed: dict[Path, str]) -> int:
    runs: dict[str, list[Path]] = {}
    for job in jobs:
        if (job.out / "config.json").exists() and job.out not in failed:
            runs.setdefault(job.method.name, []).append(job.out)
    if runs:
        comparison = jaxdt.compare(runs, out=arguments.out / "comparison")
        print(f"\n{comparison}")
        if arguments.d4rl is not None:
            text = beside_published(comparison, jobs)
            (arguments.out / "comparison" / "published.md").write_text(text, encoding="utf-8")
            print(f"\n{text}", end="")
    for out, why in failed.items():
        print(f"reproduce: not there: {out}: {why}", file=sys.stderr)
    return 1 if failed else 0


def beside_published(comparison: jaxdt.Comparison, jobs: Sequence[Job]) -> str:
    """D4RL's scores of our runs, mean ± sample standard deviation over seeds, beside the published ones."""
    names = {job.out.resolve(): job.task.name for job in jobs}
    ours = {(score.method, names[score.runs[0].resolve()]): score for score in comparison.scores}
    lines = ["| | " + " | ".join(f"{m}, ours | published" for m in comparison.methods) + " |"]
    lines.append("|---" * (1 + 2 * len(comparison.methods)) + "|")
    for name, quality in D4RL_SETS:
        cells = [f"{name}-{quality}"]
        for method in comparison.methods:
            score = ours.get((method, f"{name}-{quality}-v2"))
            normalized = None if score is None else score.normalized
            cells.append("no data" if normalized is None else _mean_and_std(normalized))
            cells.append(_published(method, name, quality))
        lines.append(f"| {' | '.join(cells)} |")
    sources = [f"{method}: {SOURCES[method]}" for method in comparison.methods if method in SOURCES]
    return "\n".join([*lines, "", f"Published: {'; '.join(sources) or 'none of these methods'}."]) + "\n"


def _published(method: str, name: str, quality: Quality) -> str:
    return SCORES.get(method, {}).get((name, quality), "-")


def _mean_and_std(values) -> str:
    spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{spread} ({len(values)})"


if __name__ == "__main__":
    sys.exit(main())
