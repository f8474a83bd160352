"""The pictures of a search: best so far, learning curves, front, importances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from scaledl.report.charts import Frame, Point, finite, thin
from scaledl.report.findings import Findings, Objective, last_value, spread
from scaledl.report.importance import Importance
from scaledl.tune.study import Trial

LEVELS = 5  # of colour, from the worst fifth of the complete trials to the best
MAX_LINES = 1000
MAX_CURVE_POINTS = 20_000
MAX_DOTS = 1000


@dataclass(frozen=True)
class Clip:
    """The stretch of an objective that is worth to be seen: a loss of a million would hide all others."""

    low: float
    high: float

    @classmethod
    def of(cls, objective: Objective, values: Sequence[float]) -> Clip:
        costs = sorted(objective.cost(value) for value in values)
        best, far = costs[0], costs[int(0.9 * (len(costs) - 1))]
        worst = min(costs[-1], far + 2 * (far - best)) if far > best else costs[-1]
        ends = sorted((objective.cost(best), objective.cost(worst)))  # cost is its own inverse
        return cls(ends[0], ends[1])

    @property
    def bounds(self) -> tuple[float, float]:
        return self.low, self.high

    def inside(self, value: float) -> float:
        return min(max(value, self.low), self.high)


def style(found: Findings, trial: Trial) -> str:
    """Class of a trial's line: best, running, faint for those that were stopped, else by its rank."""
    if found.is_best(trial):
        return "best"
    if trial.state == "running":
        return "running"
    if trial.state != "complete":
        return "faint"
    return f"q{LEVELS - 1 - LEVELS * found.rank[trial.number] // len(found.complete)}"


def describe(found: Findings, trial: Trial) -> str:
    value = last_value(trial)
    shown = "" if value is None else f", {found.first.name} {found.first.text(value)}"
    after = "" if trial.values else f" after epoch {trial.epochs}"
    return f"trial {trial.number}{shown}{after}"


def best_so_far(found: Findings) -> Markup | None:
    """Complete trials by number, and the best up to each."""
    objective, complete = found.first, sorted(found.complete, key=lambda trial: trial.number)
    if not complete:
        return None
    clip = Clip.of(objective, [trial.values[0] for trial in complete])
    steps: list[Point] = []
    best = complete[0].values[0]
    for trial in complete:
        if objective.cost(trial.values[0]) < objective.cost(best) or not steps:
            steps += [(trial.number, objective.shown(clip.inside(value))) for value in (best, trial.values[0])]
            best = trial.values[0]
    steps.append((max(found.trials[-1].number, complete[-1].number), objective.shown(best)))
    shown = spread(found.complete, MAX_DOTS)
    dots = [((t.number, objective.shown(clip.inside(t.values[0]))), describe(found, t)) for t in shown]
    frame = Frame.around([*steps, *(point for point, _ in dots)])
    parts = [frame.dot(point, "plain", text=text) for point, text in dots]
    title = f"Best {objective.name} so far"
    return frame.svg([*parts, frame.line(thin(steps), "best")], title=title, x_label="trial", y_label=objective.label)


def learning_curves(found: Findings) -> Markup | None:
    """The first objective after each epoch, of every trial that was watched."""
    watched = [trial for trial in found.ranked if trial.curve]
    if not watched:
        return None
    objective, shown = found.first, spread(watched, MAX_LINES)
    clip = Clip.of(objective, [value for trial in watched for value in trial.curve.values()])
    limit = max(2, MAX_CURVE_POINTS // len(shown))
    curves = {
        trial.number: thin(
            finite([(e, objective.shown(clip.inside(value))) for e, value in sorted(trial.curve.items())]), limit
        )
        for trial in shown
    }
    frame = Frame.around([point for points in curves.values() for point in points])
    parts = [frame.line(curves[t.number], style(found, t), text=describe(found, t)) for t in reversed(shown)]
    return frame.svg(parts, title="Learning curves", x_label="epoch", y_label=objective.label)


def pareto(found: Findings) -> Markup | None:
    """The first two objectives of all complete trials, and a line along the front of these two."""
    if len(found.objectives) < 2 or not found.complete:
        return None
    one, two = found.objectives[:2]

    def point(trial: Trial) -> Point:
        return one.shown(trial.values[0]), two.shown(trial.values[1])

    shown = spread(found.ranked[: len(found.complete)], MAX_DOTS)
    frame = Frame.around([point(trial) for trial in (*shown, *found.complete)])
    parts = [_pareto_dot(found, frame, trial, point(trial)) for trial in reversed(shown)]
    stairs = front_line([trial.values[:2] for trial in found.complete], (one, two))
    line = frame.line(thin([(one.shown(x), two.shown(y)) for x, y in stairs]), "best")
    title = f"{one.name} against {two.name}"
    return frame.svg([line, *parts], title=title, x_label=one.label, y_label=two.label)


def _pareto_dot(found: Findings, frame: Frame, trial: Trial, point: Point) -> str:
    values = zip(found.objectives, trial.values, strict=True)
    text = f"trial {trial.number}: " + ", ".join(f"{each.name} {each.text(value)}" for each, value in values)
    return frame.dot(point, "best" if found.is_best(trial) else "plain", text=text)


def front_line(values: Sequence[Sequence[float]], objectives: tuple[Objective, Objective]) -> list[Point]:
    """Stairs through the points that no other one beats in both.

    >>> both = (Objective("val_loss", "min"), Objective("params", "min"))
    >>> front_line([(1, 5), (2, 3), (2, 4), (4, 1)], both)
    [(1, 5), (2, 5), (2, 3), (4, 3), (4, 1)]
    """
    one, two = objectives
    stairs: list[Point] = []
    for x, y in sorted(values, key=lambda v: (one.cost(v[0]), two.cost(v[1]))):
        if stairs and two.cost(y) >= two.cost(stairs[-1][1]):
            continue
        stairs += [(x, stairs[-1][1])] if stairs else []
        stairs.append((x, y))
    return stairs


def importance_bars(found: Findings, importance: Importance) -> Markup | None:
    """A bar for each key, as long as its share."""
    if not importance.shares:
        return None
    row, left, width = 24, 150, 440
    height = row * len(importance.shares) + 6
    name = importance.objective.name
    parts = [f"<svg viewBox='0 0 {width} {height}' role='img' aria-label='Importances for {escape(name)}'>"]
    for i, (key, share) in enumerate(importance.shares.items()):
        short = found.short(found.space.by_name[key])
        label, y = short if len(short) <= 22 else f"…{short[-21:]}", row * i + 6
        length = (width - left - 56) * min(max(share, 0.0), 1.0)
        parts += [
            f"<text x='{left - 8}' y='{y + 9}' dy='.35em' text-anchor='end'>{escape(label)}"
            f"<title>{escape(key)}</title></text>",
            f"<rect class='bar' x='{left}' y='{y}' width='{length:.1f}' height='{row - 6}'/>",
            f"<text x='{left + length + 6:.1f}' y='{y + 9}' dy='.35em'>{100 * share:.0f} %</text>",
        ]
    # Every number is formatted here and every text escaped, so the whole is safe.
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704
