"""The timeline of a run as a picture: a lane for each service, its work as bars, and under them what it used. Pure.

Lengths are the picture's own units, which are pixels where there is room for it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from services.inspector.store.usage import UsagePoint
from shared.results.grid import Column, Grid, Rows, Value, plain
from shared.results.timeline import WORKS, StepTimeline, Work, WorkBar, seconds_by_lane

WIDTH, LEFT, RIGHT = 1000, 105, 145
"""Of all, and of it what names stand in left of the bars, and numbers right of them."""
ROW, BAR, TRACK, GAP, AXIS = 17, 14, 24, 9, 20
"""Heights: of a row of bars, of a bar in it, of a line of use, between lanes, of the axis."""
NUMBERED = 20
"""Width from which on a bar has room for the number of its step."""
TICKS = 10
TICK_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200)
ALL = "all"

WORDS: Mapping[Work, str] = {
    "rollout": "rollouts",
    "feedback": "feedback",
    "revise": "revised answers",
    "train": "training",
    "swap": "swap to the new version",
    "evaluate": "evaluation",
    "wait": "waiting",
}


@dataclass(frozen=True)
class Resource:
    """Something that services use. of: an amount at a point, or None where it is not told."""

    name: str
    of: Callable[[UsagePoint], float | None]
    text: Callable[[float], str]


def size_text(size: float) -> str:
    """Bytes, for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _count_text(count: float) -> str:
    return f"{count:.2f}"


RESOURCES = (
    Resource("cores", lambda point: point.cores, _count_text),
    Resource("memory", lambda point: point.bytes, size_text),
    Resource("GPUs", lambda point: point.gpus, _count_text),
    Resource("GPU memory", lambda point: point.gpu_bytes, size_text),
)


@dataclass(frozen=True)
class Box:
    """A bar. number: of its step, where it has room for it."""

    x: float
    y: float
    width: float
    height: float
    work: Work
    number: str
    title: str


@dataclass(frozen=True)
class Track:
    """One use over time. base: where nothing is; path: of the area above it; told: its mean and its top, in words."""

    name: str
    base: float
    path: str
    told: str
    title: str


@dataclass(frozen=True)
class Lane:
    name: str
    y: float
    boxes: Sequence[Box]
    tracks: Sequence[Track]


@dataclass(frozen=True)
class Picture:
    """begin: seconds since the epoch. bottom: where the axis is. ticks: (x, seconds since `begin`, in words)."""

    begin: float
    seconds: float
    height: float
    bottom: float
    lanes: Sequence[Lane]
    ticks: Sequence[tuple[float, str]]
    works: Sequence[tuple[Work, str]]

    width, left, right = WIDTH, LEFT, WIDTH - RIGHT


def picture(drawn: StepTimeline, usage: Sequence[UsagePoint]) -> Picture:
    """usage: by service, over the time that is drawn."""
    scale = _Scale(drawn.begin, drawn.end)
    by_service: dict[str, list[UsagePoint]] = {}
    for point in usage:
        by_service.setdefault(point.service, []).append(point)
    tops = {resource.name: max(_amounts(resource, usage), default=0.0) for resource in RESOURCES}
    lanes, y = [], 0.0
    for name in dict.fromkeys((*drawn.lanes, *by_service)):
        lane, y = _lane(name, y, scale, drawn.of_lane(name), by_service.get(name, []), tops)
        lanes.append(lane)
    if len(by_service) > 1:
        whole = _summed(usage)
        own_tops = {resource.name: max(_amounts(resource, whole), default=0.0) for resource in RESOURCES}
        lane, y = _lane(ALL, y, scale, [], whole, own_tops)
        lanes.append(lane)
    works = [(work, WORDS[work]) for work in WORKS if any(bar.work == work for bar in drawn.bars)]
    return Picture(drawn.begin, drawn.end - drawn.begin, y + AXIS, y, lanes, list(scale.ticks()), works)


def seconds_grid(drawn: StepTimeline) -> Grid:
    """The same as a table: of each lane, the seconds at each kind of work."""
    seconds = seconds_by_lane(drawn)
    works = [work for work in WORKS if any(lane[work] for lane in seconds.values())]
    columns = [*plain("Service"), *(Column(WORDS[work].capitalize(), ".1f", unit=" s") for work in works)]
    rows: Rows = [[name, *_known(lane[work] for work in works)] for name, lane in seconds.items() if any(lane.values())]
    return Grid("Seconds", columns, rows)


def _known(seconds: Iterable[float]) -> Iterator[Value]:
    return (value or None for value in seconds)


@dataclass(frozen=True)
class _Scale:
    """The axis of time."""

    begin: float
    end: float

    def x(self, at: float) -> float:
        share = (min(max(at, self.begin), self.end) - self.begin) / (self.end - self.begin)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 2)

    def ticks(self) -> Iterator[tuple[float, str]]:
        seconds = self.end - self.begin
        # The finest that gives no more than TICKS of them; beyond the coarsest there may be more.
        every = next((step for step in TICK_S if seconds / step <= TICKS), TICK_S[-1])
        for number in range(int(seconds // every) + 1):
            after = number * every
            yield self.x(self.begin + after), f"{after / 60:g} min" if every >= 60 else f"{after} s"


def _lane(
    name: str,
    y: float,
    scale: _Scale,
    bars: Sequence[WorkBar],
    points: Sequence[UsagePoint],
    tops: Mapping[str, float],
) -> tuple[Lane, float]:
    """The lane, and where the next one begins."""
    rows = _rows(bars)
    boxes = [_box(bar, y + ROW * number, scale) for number, row in enumerate(rows) for bar in row]
    below = y + ROW * len(rows)
    tracks = []
    for resource in RESOURCES:
        if list(_amounts(resource, points)):
            below += TRACK
            tracks.append(_track(name, resource, below, scale, points, tops[resource.name]))
    named_at = y + BAR if rows or not tracks else tracks[0].base
    return Lane(name, named_at - 3, boxes, tracks), max(below, y + ROW) + GAP


def _rows(bars: Sequence[WorkBar]) -> list[list[WorkBar]]:
    """Bars that are at once lie below each other; what an engine does for its peers, below what it does itself."""
    own = [bar for bar in bars if bar.work not in ("feedback", "wait")]
    rows = [*_packed(own), *_packed([bar for bar in bars if bar.work == "feedback"])]
    waits = [bar for bar in bars if bar.work == "wait"]
    return [[*rows[0], *waits], *rows[1:]] if rows else []


def _packed(bars: Sequence[WorkBar]) -> list[list[WorkBar]]:
    """Each in the first row that is free by then."""
    rows: list[list[WorkBar]] = []
    for bar in sorted(bars, key=lambda bar: bar.begin):
        # By when they began, so a row's last bar is the one that ends last.
        row = next((row for row in rows if row[-1].end <= bar.begin), None)
        if row is None:
            rows.append([bar])
        else:
            row.append(bar)
    return rows


def _box(bar: WorkBar, y: float, scale: _Scale) -> Box:
    x = scale.x(bar.begin)
    # However short, it is to be seen.
    width = max(round(scale.x(bar.end) - x, 2), 0.5)
    number = str(bar.step) if bar.step is not None and width >= NUMBERED else ""
    of = f", step {bar.step} of {bar.student}" if bar.step is not None else ""
    after = f"from {bar.begin - scale.begin:.1f} s to {bar.end - scale.begin:.1f} s"
    title = f"{bar.lane}: {WORDS[bar.work]}{of}, {bar.seconds:.1f} s, {after}"
    # Waiting is a line in the middle, so that work is what is seen.
    top, height = (y + BAR / 2 - 1, 2) if bar.work == "wait" else (y, BAR)
    return Box(x, top, width, height, bar.work, number, title)


def _track(
    name: str, resource: Resource, base: float, scale: _Scale, points: Sequence[UsagePoint], top: float
) -> Track:
    # A GPU whose driver says nothing has no amount, which is not an amount of 0.
    known = [(point, amount) for point in points if (amount := resource.of(point)) is not None]
    steps = [
        (scale.x(point.begin), scale.x(point.end), round(base - (TRACK - 6) * amount / (top or 1), 2))
        for point, amount in known
    ]
    amounts = [amount for _, amount in known]
    mean, most = resource.text(sum(amounts) / len(amounts)), resource.text(max(amounts))
    title = f"{name}: {resource.name}, {mean} on the mean, {most} at most"
    return Track(resource.name, base, _outline(base, steps), f"{mean}, top {most}", title)


def _outline(base: float, steps: Sequence[tuple[float, float, float]]) -> str:
    """Of an area of steps (from, to, y) above `base`; where there is none, as while a service was down, it is empty."""
    path, last = [], None
    for begin, end, y in steps:
        path += [] if begin == last else [f"M{begin} {base}"] if last is None else [f"V{base}M{begin} {base}"]
        path.append(f"V{y}H{end}")
        last = end
    return "".join(path) + f"V{base}"


def _amounts(resource: Resource, points: Iterable[UsagePoint]) -> Iterator[float]:
    return (amount for point in points if (amount := resource.of(point)) is not None)


def _summed(usage: Sequence[UsagePoint]) -> list[UsagePoint]:
    """All services together, at each time; not their GPUs, which several may share."""
    by_time: dict[tuple[float, float], list[UsagePoint]] = {}
    for point in usage:
        by_time.setdefault((point.begin, point.end), []).append(point)
    return [
        UsagePoint(
            service=ALL,
            begin=begin,
            end=end,
            cores=sum(point.cores for point in points),
            bytes=sum(point.bytes for point in points),
            gpus=None,
            gpu_bytes=None,
        )
        for (begin, end), points in sorted(by_time.items())
    ]
