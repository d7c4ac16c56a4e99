import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.student.engines.sampling import distribution, draw
from shared.contracts.messages import LEAST_TEMPERATURE

pytestmark = pytest.mark.model

ROWS = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=600)
UNIFORMS = st.floats(0, 1, exclude_max=True)


@given(row=ROWS, uniform=UNIFORMS)
def test_a_draw_is_the_inverse_of_the_cdf(row: list[float], uniform: float) -> None:
    probabilities = distribution(torch.tensor([row]), [1.0], [1.0])
    token = int(draw(probabilities, [0], [uniform]))
    cumulative = probabilities[0].double().cumsum(0) / probabilities[0].double().sum()
    before = cumulative[token - 1] if token else 0.0
    assert before - 1e-5 <= uniform <= cumulative[token] + 1e-5
    assert probabilities[0, token] > 0


@pytest.mark.parametrize("uniform", [0.0, 0.5, math.nextafter(1.0, 0.0)])
def test_tokens_without_mass_are_never_drawn(uniform: float) -> None:
    probabilities = torch.zeros(1, 1000)
    probabilities[0, [3, 700]] = 0.5
    assert int(draw(probabilities, [0], [uniform])) in (3, 700)


def test_frequencies_are_the_probabilities() -> None:
    probabilities = torch.tensor([[0.5, 0.0, 0.2, 0.3]])
    uniforms = [(number + 0.5) / 1000 for number in range(1000)]
    counts = Counter(draw(probabilities, [0] * 1000, uniforms).tolist())
    assert counts == {0: 500, 2: 200, 3: 300}


@given(row=ROWS, top_p=st.floats(0.05, 0.99))
def test_the_nucleus_is_the_smallest_that_reaches_top_p(row: list[float], top_p: float) -> None:
    whole = distribution(torch.tensor([row]), [1.0], [1.0])[0]
    kept = distribution(torch.tensor([row]), [1.0], [top_p])[0]
    inside = kept > 0
    assert kept.sum().item() == pytest.approx(1.0, abs=1e-4)
    assert whole[inside].sum() >= top_p - 1e-4
    least = whole[inside].min()
    assert whole[whole > least].sum() < top_p + 1e-4
    assert bool(((whole < least) | inside).all())


def test_the_lowest_temperature_leaves_numbers() -> None:
    assert distribution(torch.tensor([[-3e4, 3e4, 1.0]]), [LEAST_TEMPERATURE], [1.0]).tolist() == [[0.0, 1.0, 0.0]]


def test_a_flat_nucleus_of_thousands_is_found() -> None:
    row = torch.linspace(0, 1, 5000)[None]
    kept = distribution(row, [1.0], [0.95])[0]
    whole = row.softmax(-1)[0]
    assert whole[kept > 0].sum().item() == pytest.approx(0.95, abs=1e-3)


def test_rows_do_not_touch_each_other() -> None:
    logits = torch.randn(3, 700, generator=torch.Generator().manual_seed(0))
    temperatures, top_ps = [0.0, 0.7, 1.3], [1.0, 0.8, 1.0]
    together = distribution(logits, temperatures, top_ps)
    for row in range(3):
        alone = distribution(logits[row : row + 1], temperatures[row : row + 1], top_ps[row : row + 1])
        torch.testing.assert_close(together[row], alone[0])
