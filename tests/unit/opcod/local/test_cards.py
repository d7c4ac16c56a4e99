"""How much memory GPUs have, as nvidia-smi and a person tell it."""

import os
from pathlib import Path

import pytest

from opcod.local.cards import card_sizes, given_sizes
from shared.errors import ConfigError

MIB = 1 << 20
LISTED = """\
#!/bin/sh
case "$1" in
-L) echo 'GPU 0: H100 (UUID: GPU-7f3a-1)'; echo 'GPU 1: L4 (UUID: GPU-9b2c-2)' ;;
*) echo '0, GPU-7f3a-1, 81559'; echo '1, GPU-9b2c-2, 23034' ;;
esac
"""


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, first on the PATH, that lists two GPUs."""
    program = tmp_path / "nvidia-smi"
    program.write_text(LISTED)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return program


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, (81559 * MIB, 23034 * MIB)),
        ("1,0", (23034 * MIB, 81559 * MIB)),
        ("GPU-9b2c", (23034 * MIB,)),
        ("", ()),
        ("2", None),
        ("MIG-1", None),
    ],
)
@pytest.mark.usefixtures("nvidia_smi")
def test_sizes_are_in_the_order_of_the_gpus_that_we_may_use(visible: str | None, expected: object) -> None:
    assert card_sizes({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}) == expected


def test_a_size_that_is_not_told_is_not_guessed(nvidia_smi: Path) -> None:
    nvidia_smi.write_text("#!/bin/sh\necho '0, GPU-7f3a-1, [N/A]'\n")
    assert card_sizes({"CUDA_VISIBLE_DEVICES": "0"}) is None
    nvidia_smi.unlink()
    assert card_sizes({"CUDA_VISIBLE_DEVICES": "0"}) is None, "no program, no sizes"


def test_cards_are_named_by_number_and_gb() -> None:
    assert given_sizes("2x80") == (80 * 10**9,) * 2
    assert given_sizes("1x24, 1x79.6") == (24 * 10**9, 79_600_000_000)


@pytest.mark.parametrize("text", ["", "80", "2x", "x80", "0x80", "2x0", "2x80GB", "-1x80", "2x80,", "99999x1", "2×80"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--gpus: expected how many cards and the GB of each, such as 2x80"):
        given_sizes(text)
