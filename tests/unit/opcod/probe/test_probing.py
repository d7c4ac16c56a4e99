"""What a trainer says of how far the loss reaches, among what others say."""

from pathlib import Path

from opcod.probe.probing import _reaches
from shared.contracts.probing import Reach


def test_a_reach_is_found_in_a_log_that_goes_on_after_it(tmp_path: Path) -> None:
    reach = Reach(tokens=3, differing=2, unseen=1, pull=0.5)
    log = tmp_path / "log"
    log.write_text(f"2 of 2 answers measured\n{reach.model_dump_json()}\nnull\n[W] a library ends\n")
    assert list(_reaches(log, 2)) == [reach, None]
