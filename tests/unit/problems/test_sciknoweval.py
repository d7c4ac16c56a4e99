"""SciKnowEval's rows: taken apart, split without leaks, and refused with file and line."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import ConfigError, ProblemSetError
from shared.problems.formats import format_named
from shared.problems.loading import load_problem_set
from shared.problems.manifest import manifest
from shared.problems.problem import ProblemSet
from shared.problems.sciknoweval import PROMPT_SUFFIX, RawRow, read_domain
from tests.fakes.sciknoweval import SYSTEM, Row, plain, row, two_domains, write

DOMAINS = ("optics", "acids")
ROWS = {"physics": (720, 80), "chemistry": (1890, 210), "material": (841, 94), "biology": (450, 50)}
SHARED_STEMS = {"physics": 7, "chemistry": 1, "material": 7, "biology": 19}
REAL = os.environ.get("OPCOD_SCIKNOWEVAL_DIR")


def load(directory: Path, domains: tuple[str, str] = DOMAINS, seed: int = 0, validation: int = 3) -> ProblemSet:
    return load_problem_set(f"sciknoweval:{directory}", "mcq", seed, domains=domains, validation_per_domain=validation)


def ids(problem_set: ProblemSet, partition: str) -> set[str]:
    return {problem.id for problem in problem_set.partition(partition)}


def dropped(problem_set: ProblemSet) -> list[tuple[str, str, str]]:
    assert problem_set.provenance is not None
    return [(each.id, each.partition, each.same_as) for each in problem_set.provenance.dropped]


@pytest.fixture
def optics(tmp_path: Path) -> Callable[..., Path]:
    """Writes a directory whose optics have these rows beside plain ones; idx from 100 on are free."""

    def make(train: list[Row], test: list[Row] | None = None, *, beside: int = 12) -> Path:
        two_domains(tmp_path)
        return write(tmp_path, "optics", [*plain(0, beside, "lens"), *train], [*plain(50, 4, "lens"), *(test or [])])

    return make


def test_the_idx_of_two_domains_may_be_the_same(tmp_path: Path) -> None:
    loaded = load(two_domains(tmp_path))
    assert [len(loaded.partition(name)) for name in ("train", "validation", "test")] == [18, 6, 8]
    assert {"optics-12", "acids-12"} <= ids(loaded, "test")
    assert loaded.format.name == "mcq"


def test_prompt_and_system_message_arrive_byte_for_byte(optics: Callable[..., Path]) -> None:
    made = row(100, "A {lens} of $\\frac{1}{2}$ with n<2?", ["{a}", "b", "c", "d"], "C")
    loaded = load(optics([], [made]))
    problem = loaded.by_id("optics-100")
    messages = loaded.format.messages(problem)
    assert [(message.role, message.content) for message in messages] == [("system", SYSTEM), ("user", made["prompt"])]
    assert problem.answer == "C"


@pytest.mark.parametrize(
    ("stem", "options", "between"),
    [
        ("One line.", ["1", "2", "3", "4"], "\n"),
        ("Two\n\nparagraphs.\n\nAnd a third", ["1", "2", "3", "4"], "\n"),
        ("Blank lines between options.", ["1", "2", "3", "4"], "\n\n"),
        ("A: a stem with\nB: what looks like options", ["1", "2", "3", "4"], "\n"),
        ("An option of several lines.", ["1\n\nmore", "2", "3\nA: not one", "4"], "\n"),
        ("Two options only, whatever the system message says.", ["yes", "no"], "\n"),
        ("Ends with a blank line\n", ["1", "2", "3", "4"], "\n"),
    ],
)
def test_stem_and_options_are_told_apart(
    optics: Callable[..., Path], stem: str, options: list[str], between: str
) -> None:
    directory = optics([], [row(100, stem, options, between=between)])
    found = next(each for each in read_domain(directory, "optics")["test"] if each.raw.idx == 100)
    assert (found.stem, list(found.options)) == (stem, options)


def test_what_a_concept_may_be_anchored_in_ends_before_the_closing_line(optics: Callable[..., Path]) -> None:
    loaded = load(optics([], [row(100, "Stem.\n\nMore.", ["1", "2", "3", "4"])]))
    text = loaded.format.anchor_text(loaded.by_id("optics-100"))
    assert text == "Stem.\n\nMore.\n\nA: 1\nB: 2\nC: 3\nD: 4"


def test_training_rows_that_ask_a_test_question_are_left_out_and_named(optics: Callable[..., Path]) -> None:
    test = row(100, "What is a Prism?", ["red", "green", "blue", "none"], "A")
    shuffled = row(101, "what is a prism", ["None", "BLUE!", "green", "red"], "D")
    other_options = row(102, "What is a prism?", ["glass", "green", "blue", "none"], "A")
    loaded = load(optics([shuffled, other_options], [test]))
    assert dropped(loaded) == [("optics-101", "test", "optics-100")]
    assert "optics-102" in ids(loaded, "train") | ids(loaded, "validation")
    assert loaded.provenance is not None
    assert loaded.provenance.shared_stems == ("optics-100",)


def test_a_leak_between_two_domains_is_left_out_too(tmp_path: Path) -> None:
    two_domains(tmp_path)
    write(tmp_path, "acids", [*plain(0, 12, "acid"), *plain(12, 1, "lens")], plain(20, 4, "acid"))
    assert dropped(load(tmp_path)) == [("acids-12", "test", "optics-12")]


def test_validation_follows_the_hash_of_seed_domain_and_idx(tmp_path: Path) -> None:
    directory = two_domains(tmp_path)
    for seed in (0, 1):
        ranked = sorted(range(12), key=lambda idx: hashlib.sha256(f"{seed}|optics|{idx}".encode()).hexdigest())
        of_optics = {name for name in ids(load(directory, seed=seed), "validation") if name.startswith("optics")}
        assert of_optics == {f"optics-{idx}" for idx in ranked[:3]}
    assert ids(load(directory, seed=0), "validation") != ids(load(directory, seed=1), "validation")


def test_validation_does_not_depend_on_the_other_domain(tmp_path: Path) -> None:
    directory = write(two_domains(tmp_path), "cells", plain(0, 12, "cell"), plain(12, 4, "cell"))
    with_acids, with_cells = load(directory), load(directory, ("optics", "cells"))
    pairs = zip(with_acids.validation, with_cells.validation, strict=True)
    assert [first == second for first, second in pairs] == [True] * 3 + [False] * 3


def test_rows_with_a_stem_of_their_own_validate_first(optics: Callable[..., Path]) -> None:
    templated = [row(100 + n, "Which of these?", [f"{n} {k}" for k in range(4)]) for n in range(60)]
    assert ids(load(optics(templated)), "validation").isdisjoint(f"optics-{100 + n}" for n in range(60))


def test_where_only_templated_stems_are_left_no_question_stands_twice(optics: Callable[..., Path]) -> None:
    templated = [row(100 + n, "Which of these?", [f"{n // 2} {k}" for k in range(4)]) for n in range(8)]
    loaded = load(optics(templated, beside=1))
    chosen = {name for name in ids(loaded, "validation") if name.startswith("optics")}
    assert len(chosen) == 3
    assert "optics-0" in chosen
    for _, partition, same_as in dropped(loaded):
        assert partition == "validation"
        assert same_as in chosen
    assert len(dropped(loaded)) == 2, "both chosen templated rows have a twin"


def test_too_few_training_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ProblemSetError, match=r"expected fewer than the 12 training rows of optics .*, got 12"):
        load(two_domains(tmp_path), validation=12)


def test_the_manifest_has_file_hashes_ids_and_what_was_dropped(optics: Callable[..., Path]) -> None:
    directory = optics([row(101, "Leak?", ["1", "2", "3", "4"])], [row(100, "Leak?", ["1", "2", "3", "4"])])
    loaded = load(directory)
    written = manifest(loaded)
    assert written.provenance is not None
    assert set(written.provenance.files) == {f"{d}/{name}.json" for d in DOMAINS for name in ("train", "test")}
    for name, sha256 in written.provenance.files.items():
        assert sha256 == hashlib.sha256((directory / name).read_bytes()).hexdigest()
    listed = written.partitions["test"].domains["optics"]
    assert listed.ids == ("optics-50", "optics-51", "optics-52", "optics-53", "optics-100")
    assert [each.id for each in written.provenance.dropped] == ["optics-101"]
    assert type(written).model_validate_json(written.model_dump_json()) == written


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"idx": "7"}, r"train.json:13: idx: expected a valid integer, got '7'"),
        ({"idx": 3}, r"train.json:13: expected a new idx, got 3 as in .*train.json:4"),
        ({"answer": "E"}, r"train.json:13: answer: expected 'A', 'B', 'C' or 'D', got 'E'"),
        ({"answer": "b"}, r"train.json:13: answer: expected"),
        ({"dataset": "gpqa"}, r"train.json:13: dataset: expected 'sciknoweval', got 'gpqa'"),
        ({"level": 3}, r"train.json:13: expected only the fields idx, kind, .*, got 'level'"),
        ({"description": "Q?"}, r"train.json:13: description: expected it to end with 'The solution will be"),
        ({"prompt": "Q?\n\nA: 1\nB: 2"}, r"train.json:13: prompt: expected the last line 'Please reason"),
        ({"prompt": f"Other\n\nA: 1\nB: 2{PROMPT_SUFFIX}"}, r"train.json:13: prompt: expected the description's"),
        ({"prompt": f"Q?\n\nno options{PROMPT_SUFFIX}"}, r"train.json:13: prompt: expected the options"),
        ({"prompt": f"Q?\n\nA: 1\nB: 2{PROMPT_SUFFIX}", "answer": "C"}, r"13: answer: expected one of its 2 options"),
    ],
)
def test_a_bad_row_is_refused_with_file_and_line(optics: Callable[..., Path], change: Row, message: str) -> None:
    with pytest.raises(ProblemSetError, match=message):
        load(optics([row(100, "Q?", ["1", "2", "3", "4"]) | change]))


def test_a_field_that_is_missing_is_named(optics: Callable[..., Path]) -> None:
    incomplete = {name: value for name, value in row(100, "Q?", ["1", "2"]).items() if name != "system"}
    with pytest.raises(ProblemSetError, match=r"train.json:13: expected the field 'system', it is missing"):
        load(optics([incomplete]))


def test_an_unknown_domain_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ProblemSetError, match=r"files cells/train.json, cells/test.json; it has .* for acids, optics"):
        load(two_domains(tmp_path), ("optics", "cells"))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    two_domains(tmp_path)
    (tmp_path / "acids" / "test.json").write_text("\n")
    with pytest.raises(ProblemSetError, match=r"acids/test.json: expected rows, the file has none"):
        load(tmp_path)


def test_only_the_multiple_choice_format_and_named_domains_will_do(tmp_path: Path) -> None:
    source = f"sciknoweval:{two_domains(tmp_path)}"
    with pytest.raises(ConfigError, match=r"expected problems.format = 'mcq', got 'integer'"):
        load_problem_set(source, "integer", domains=DOMAINS)
    with pytest.raises(ConfigError, match="expected the domains to load, got none"):
        load_problem_set(source)


@pytest.mark.skipif(REAL is None, reason="set OPCOD_SCIKNOWEVAL_DIR to the directory of the real files")
class TestRealFiles:
    """Every row of the files that the paper's problems are in (method 1.1, 1.2)."""

    @pytest.fixture(params=sorted(ROWS))
    def domain(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def paired(self, domain: str) -> ProblemSet:
        other = "chemistry" if domain != "chemistry" else "physics"
        return load(Path(str(REAL)), (domain, other), validation=30)

    def test_every_row_is_taken_apart_and_put_together_again(self, domain: str) -> None:
        rows = read_domain(Path(str(REAL)), domain)
        assert (len(rows["train"]), len(rows["test"])) == ROWS[domain]
        for each in (*rows["train"], *rows["test"]):
            raw: RawRow = each.raw
            body = raw.prompt.removesuffix(PROMPT_SUFFIX)
            assert len(each.options) in ((2, 4) if domain == "biology" else (4,)), each.id
            assert all(option for option in each.options), each.id
            marks = [f"{letter}: {text}" for letter, text in zip("ABCD", each.options, strict=False)]
            squeezed = "".join("".join([each.stem, *marks]).split())
            assert "".join(body.split()) == squeezed, each.id
        two = sum(len(each.options) == 2 for part in rows.values() for each in part)
        assert two == (200 if domain == "biology" else 0)

    def test_the_format_holds_every_row(self, domain: str) -> None:
        form = format_named("mcq")
        for each in (one for part in read_domain(Path(str(REAL)), domain).values() for one in part):
            problem = each.problem()
            assert form.refusal(problem) is None
            system, user = form.messages(problem)
            assert (system.content, user.content) == (each.raw.system, each.raw.prompt)
            assert system.content.startswith("\n")
            assert system.content.endswith("</answer>\n")
            anchor = form.anchor_text(problem)
            assert anchor == problem.question.removesuffix(PROMPT_SUFFIX).rstrip(), "a few end with white space"
            asked = form.feedback_messages(problem, "r", peer_domain="x", agent_domain="y")[0].content
            assert anchor in asked, each.id

    def test_partitions_have_the_known_sizes_and_leaks(self, domain: str, paired: ProblemSet) -> None:
        train, test = ROWS[domain]
        lost = [each for each in dropped(paired) if each[0].startswith(f"{domain}-")]
        assert {same_as for _, _, same_as in lost} <= {"material-365", "material-498"}
        assert len(lost) == (9 if domain == "material" else 0)
        sizes = {
            name: sum(problem.domain == domain for problem in paired.partition(name))
            for name in ("train", "validation", "test")
        }
        assert sizes == {"train": train - 30 - len(lost), "validation": 30, "test": test}
        assert paired.provenance is not None
        shared = [name for name in paired.provenance.shared_stems if name.startswith(f"{domain}-")]
        assert len(shared) == SHARED_STEMS[domain]
