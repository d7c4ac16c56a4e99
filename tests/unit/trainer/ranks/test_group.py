"""What ranks tell each other: a group of one asks nobody, and an error of one rank is one of all."""

import pytest
import torch

from services.trainer.ranks.group import Alone, together, total_norm
from shared.errors import MalformedMessageError, ModelError, OpcodError, ReadError, StorageError, WriteError


class SecondOfTwo(Alone):
    """Rank 1 of a group whose rank 0 says `other`."""

    rank = 1
    size = 2

    def __init__(self, other: str) -> None:
        self.other = other

    def texts(self, mine: str) -> list[str]:
        return [self.other, mine]


def test_one_rank_keeps_what_it_has() -> None:
    one, values = Alone(), torch.ones(3)
    assert one.any(True) and not one.any(False)
    assert one.sums([1.5, 2.0]) == [1.5, 2.0]
    assert one.joined(values) is values
    assert one.texts("x") == ["x"]
    one.add_up([values])
    assert values.tolist() == [1.0, 1.0, 1.0]
    assert total_norm(one, 3.0) == 3.0


@pytest.mark.parametrize("kind", [StorageError, WriteError, ReadError, ModelError, MalformedMessageError])
def test_an_error_elsewhere_is_raised_here_as_what_it_is(kind: type[OpcodError]) -> None:
    with pytest.raises(kind, match=r"on rank 0 of 2: .*no file"), together(SecondOfTwo(f"{kind.__name__}: no file")):
        pass


def test_the_own_error_is_raised_as_it_is() -> None:
    with pytest.raises(StorageError, match=r"^mine$"), together(SecondOfTwo("ModelError: theirs")):
        raise StorageError("mine")


def test_without_an_error_nothing_is_raised() -> None:
    with together(SecondOfTwo("")):
        pass


def test_what_is_no_error_of_ours_ends_this_rank() -> None:
    with pytest.raises(ZeroDivisionError), together(SecondOfTwo("")):
        raise ZeroDivisionError
