"""Outcomes as Markdown: the paper's tables, the published column beside ours, and the difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, stdev

from mtkd_edge.lab.benchmark import published
from mtkd_edge.lab.benchmark.outcome import Outcome
from mtkd_edge.lab.benchmark.settings import Settings
from mtkd_edge.lab.config import MULTI

ORACLE_NOTE = "chosen by test labels"
Figure = Callable[[Outcome], float | None]


def markdown(settings: Settings, outcomes: Sequence[Outcome], device: str) -> str:
    """The tables, one a variant, and one that compares the variants; every table says how its figures were chosen."""
    names = list(dict.fromkeys(o.variant for o in outcomes))
    parts = [heading(settings, outcomes, device)]
    for name in names:
        rows = [o for o in outcomes if o.variant == name]
        title = [f"### {name}"] if len(names) > 1 else []
        parts += [*title, main_table(settings, rows), *weights_line(rows)]
    if len(names) > 1:
        parts.append(ablation(outcomes))
    return "\n\n".join(parts) + "\n"


def heading(settings: Settings, outcomes: Sequence[Outcome], device: str) -> str:
    """What was run, on what, and how the figures came about."""
    seeds = len({o.seed for o in outcomes})
    lines = [
        f"AUROC in per cent, mean ± standard deviation over {seeds} seed{'s' if seeds > 1 else ''}. "
        f"{settings.suite}, method {settings.method}, student {settings.student}, {device}.",
        f"Teachers: {', '.join(dict.fromkeys(name for o in outcomes for name in o.importance)) or 'none'}.",
    ]
    if settings.method == "paper":
        lines += [
            f"{settings.size} pixels, crops of {settings.crop}, {settings.epochs} epochs, batches of {settings.batch}.",
            f"Honest: last epoch, r fixed beforehand at {_mix(settings.terms)}, the terms as they are.",
        ]
    if settings.student != MULTI:
        lines.append("The published column is the authors' released run with one ResNet-18 student and their teachers.")
    if settings.protocol == "oracle":
        lines.append(f"Oracle: epoch and r {ORACLE_NOTE}, as the authors did; an upper bound, not a result.")
    train, test = ([o.photos[side] for o in outcomes] for side in ("train", "good"))
    bad = [o.photos["anomalous"] for o in outcomes]
    lines.append(
        f"Photos a category: {_span(train)} to train on, {_span(test)} good and {_span(bad)} anomalous to test."
    )
    missing = {o.category: o.photos.get("left_out", 0) for o in outcomes}
    if any(missing.values()):
        named = ", ".join(f"{count} of {name}" for name, count in missing.items() if count)
        lines.append(f"Test photos left out, because they cannot be read or are copies: {named}.")
    return "\n".join(lines)


def main_table(settings: Settings, outcomes: Sequence[Outcome]) -> str:
    """One row a category and one for their mean."""
    oracle, published_best = settings.protocol == "oracle", settings.protocol == "oracle" or settings.method == "map"
    figures: list[tuple[str, Figure]] = [("ours, honest", lambda o: o.image_auroc)]
    if oracle:
        figures.insert(0, ("ours, oracle", lambda o: o.oracle.image_auroc if o.oracle else None))
    if settings.method == "map":
        figures += [("pixel AUROC", lambda o: o.pixel_auroc), ("AUPRO", lambda o: o.aupro)]
    figures += [(f"{term} alone", _single(term)) for term in dict.fromkeys(t for o in outcomes for t in o.single)]
    column = f"published, {'best epoch and r' if published_best else 'last epoch, r'} {ORACLE_NOTE}"
    names = [name for name, _ in figures]
    lines = [["category", column, names[0], "difference", *names[1:]]]
    lines.append(["---", *["--:"] * (len(lines[0]) - 1)])
    categories = list(dict.fromkeys(o.category for o in outcomes))
    for name in categories:
        rows = [o for o in outcomes if o.category == name]
        lines.append([name, *_cells(theirs(settings, [name], published_best), rows, figures)])
    if len(categories) > 1:
        lines.append(["mean", *_cells(theirs(settings, categories, published_best), outcomes, figures)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def theirs(settings: Settings, categories: Sequence[str], best: bool) -> float | None:
    """The published figure of a category, or the mean of several; None where there is none.

    Rows by category exist for one ResNet-18 student; of three students only the mean of all categories is known, and
    only with the choices by test labels.
    """
    known = published.ROWS[settings.suite]
    if settings.student == MULTI:
        whole = best and len(categories) > 1 and set(categories) == set(known)
        return published.MULTI_MEANS.get(settings.suite) if whole else None
    if not set(categories) <= set(known):
        return None
    return mean(known[name].best if best else known[name].last for name in categories)


def _cells(known: float | None, rows: Sequence[Outcome], figures: Sequence[tuple[str, Figure]]) -> list[str]:
    first, *others = (figure for _, figure in figures)
    found = _mean(rows, first)
    difference = "" if known is None or found is None else f"{100 * found - known:+.2f}"
    return [
        "" if known is None else f"{known:.2f}",
        _spread(rows, first),
        difference,
        *(_spread(rows, f) for f in others),
    ]


def ablation(outcomes: Sequence[Outcome]) -> str:
    """The variants beside each other, by category."""
    categories = list(dict.fromkeys(o.category for o in outcomes))
    lines = [["variant, honest", *categories, "mean"], ["---", *["--:"] * (len(categories) + 1)]]
    for name in dict.fromkeys(o.variant for o in outcomes):
        rows = [o for o in outcomes if o.variant == name]
        each = [[o for o in rows if o.category == category] for category in categories]
        lines.append([name, *(_spread(some, lambda o: o.image_auroc) for some in [*each, rows])])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def weights_line(outcomes: Sequence[Outcome]) -> list[str]:
    """The mean importance of each teacher, where there are several."""
    names = list(dict.fromkeys(name for o in outcomes for name in o.importance))
    if len(names) < 2:
        return []
    means = {name: mean(mean(o.importance[name]) for o in outcomes if name in o.importance) for name in names}
    return ["Importance: " + ", ".join(f"{name} {share:.3f}" for name, share in means.items()) + "."]


def _mix(r: Sequence[float]) -> str:
    return " : ".join(f"{share / max(r):.3g}" for share in r)


def _single(term: str) -> Figure:
    return lambda o: o.single.get(term)


def _mean(rows: Sequence[Outcome], figure: Figure) -> float | None:
    values = [value for o in rows if (value := figure(o)) is not None]
    return mean(values) if values else None


def _spread(rows: Sequence[Outcome], figure: Figure) -> str:
    """Per cent: the mean over seeds (of the mean over categories), and its deviation where there are several."""
    by_seed = [_mean([o for o in rows if o.seed == seed], figure) for seed in sorted({o.seed for o in rows})]
    values = [100 * value for value in by_seed if value is not None]
    if not values:
        return ""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
