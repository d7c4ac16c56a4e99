"""The timeline as a picture: bars where they belong, none over another, what was used below them; and as a table."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inspector.store.usage import UsagePoint
from services.inspector.web.machine_tables import age_text
from services.inspector.web.timeline import LEFT, RIGHT, WIDTH, Lane, Picture, picture, seconds_grid, size_text
from shared.results.timeline import WORKS, StepTimeline, WorkBar, timeline
from tests.unit.results.test_timeline import STEP


def drawn() -> StepTimeline:
    """Of 22 seconds from the tenth on."""
    found = timeline(STEP, "ab", steps=4)
    assert found is not None
    return found


def point(service: str, begin: float, end: float, cores: float, **changes: float) -> UsagePoint:
    fields = {"bytes": int(2e9 * cores), "gpus": None, "gpu_bytes": None} | changes
    return UsagePoint.model_validate({"service": service, "begin": begin, "end": end, "cores": cores} | fields)


def lane(found: Picture, name: str) -> Lane:
    [only] = [each for each in found.lanes if each.name == name]
    return only


def test_every_bar_says_what_it_is_and_lies_at_its_time() -> None:
    found = picture(drawn(), [])
    assert [each.name for each in found.lanes] == ["student-a", "student-b", "trainer-a", "trainer-b"]
    [train] = lane(found, "trainer-a").boxes
    per_s = (WIDTH - LEFT - RIGHT) / 22
    assert (train.x, train.width) == (pytest.approx(LEFT + 14 * per_s, 0.01), pytest.approx(6 * per_s, 0.01))
    assert (train.number, train.title) == ("1", "trainer-a: training, step 1 of a, 6.0 s, from 14.0 s to 20.0 s")
    [feedback] = lane(found, "student-b").boxes
    assert feedback.title == "student-b: feedback, step 1 of a, 7.0 s, from 4.0 s to 11.0 s"
    assert [text for _, text in found.ticks] == ["0 s", "5 s", "10 s", "15 s", "20 s"]
    assert found.works[-1] == ("wait", "waiting")


def test_what_was_used_stands_under_its_service_on_one_scale_and_last_of_all_together() -> None:
    usage = [
        point("inspector", 10, 14, 0.5),
        point("student-a", 10, 14, 1.0, gpus=0.5, gpu_bytes=3e9),
        point("student-a", 14, 18, 2.0, gpus=0.25, gpu_bytes=4e9),
        point("student-a", 26, 30, 2.0),
    ]
    found = picture(drawn(), usage)
    assert [each.name for each in found.lanes][-2:] == ["inspector", "all"]
    tracks = {track.name: track for track in lane(found, "student-a").tracks}
    assert list(tracks) == ["cores", "memory", "GPUs", "GPU memory"]
    assert tracks["cores"].title == "student-a: cores, 1.67 on the mean, 2.00 at most"
    assert tracks["memory"].told == "3.3 GB, top 4.0 GB"
    base, path = tracks["cores"].base, tracks["cores"].path
    # Up to half of the height, up to all of it, down where nothing is told, and up again.
    assert [base - float(y) for y in re.findall(r"V([\d.]+)", path)] == [9, 18, 0, 18, 0]
    assert path.count("M") == 2
    [cores, _] = lane(found, "inspector").tracks
    assert cores.path.split("V")[1].split("H")[0] == str(cores.base - 4.5)
    assert [track.told for track in lane(found, "all").tracks] == ["1.83, top 2.00", "3.7 GB, top 4.0 GB"]


def test_the_table_has_the_seconds_of_each_lane_at_work() -> None:
    grid = seconds_grid(drawn())
    assert [column.title for column in grid.columns] == [
        "Service",
        "Rollouts",
        "Feedback",
        "Revised answers",
        "Training",
        "Swap to the new version",
        "Waiting",
    ]
    assert grid.rows == [
        ["student-a", 6.0, None, 3.0, None, 2.0, 11.0],
        ["student-b", None, 7.0, None, None, None, None],
        ["trainer-a", None, None, None, 6.0, None, None],
    ]


BARS = st.lists(
    st.builds(
        lambda work, begin, length: WorkBar(lane="student-a", work=work, begin=begin, end=begin + length),
        st.sampled_from(WORKS[:-1]),
        st.floats(0, 99),
        st.floats(0.01, 50),
    ),
    min_size=1,
)


@given(BARS)
def test_no_bar_lies_over_another_or_outside(bars: list[WorkBar]) -> None:
    end = max(bar.end for bar in bars)
    found = picture(StepTimeline(begin=0, end=end, lanes=("student-a",), bars=tuple(bars)), [])
    boxes = found.lanes[0].boxes
    assert len(boxes) == len(bars)
    for number, box in enumerate(boxes):
        assert box.x >= LEFT and box.x + box.width <= WIDTH - RIGHT + 0.51 and box.y + box.height <= found.bottom
        for other in boxes[number + 1 :]:
            apart = box.x + box.width <= other.x + 0.51 or other.x + other.width <= box.x + 0.51
            assert apart or box.y != other.y


@pytest.mark.parametrize(
    ("seconds", "said"), [(-1, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d")]
)
def test_an_age_is_said_in_a_unit_of_which_there_are_two(seconds: float, said: str) -> None:
    assert age_text(seconds) == said


def test_sizes_for_people() -> None:
    assert [size_text(size) for size in (95e6, 1.94e9)] == ["95 MB", "1.9 GB"]
