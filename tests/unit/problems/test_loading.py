"""Loading from a directory: what is read, and what every refusal says."""

import json
from pathlib import Path

import pytest

from shared.config.loading import load_settings
from shared.errors import ConfigError, ProblemSetError
from shared.problems.coverage import contradictions, told_of
from shared.problems.evaluation import evaluated_problems
from shared.problems.generated import PerKind, generate
from shared.problems.loading import load_problem_set

Row = dict[str, object]


def _row(row_id: str, domain: str, **changes: object) -> Row:
    return {"id": row_id, "domain": domain, "question": f"What is {row_id}?", "answer": "12", **changes}


def _rows() -> dict[str, list[Row]]:
    return {
        name: [_row(f"{name} {domain}", domain) for domain in ("optics", "acids")]
        for name in ("train", "validation", "test")
    }


def _write(directory: Path, rows: dict[str, list[Row]]) -> str:
    for name, partition in rows.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in partition]
        (directory / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return str(directory)


def _line(question: str = "Why?", answer: str = "12", extra: str = "") -> bytes:
    return f'{{{extra}"id": "x", "domain": "optics", "question": "{question}", "answer": "{answer}"}}\n'.encode()


def test_generated_needs_nothing_else() -> None:
    loaded = load_problem_set("generated", seed=4, per_kind=PerKind(test=1, validation=1, train=1, specialise=1))
    assert loaded.domains == ("physics", "chemistry")
    assert loaded.test == generate(4).test[:20]


def test_a_directory_is_read_row_by_row(tmp_path: Path) -> None:
    rows = _rows()
    rows["train"][0] |= {"kind": "lens", "solution": "x = 12", "question": "Wie groß ist μ?"}
    loaded = load_problem_set(_write(tmp_path, rows), "integer")
    first = loaded.train[0]
    assert (first.id, first.kind, first.solution, first.system) == ("train optics", "lens", "x = 12", None)
    assert first.question == "Wie groß ist μ?"
    assert loaded.domains == ("optics", "acids")
    assert [len(loaded.partition(name)) for name in ("train", "validation", "test", "specialise")] == [2, 2, 2, 0]


def test_a_directory_is_read_once_while_its_files_are_the_same(tmp_path: Path) -> None:
    source, rows = _write(tmp_path, _rows()), _rows()
    loaded = load_problem_set(source, "integer")
    assert load_problem_set(_write(tmp_path, rows), "integer") is loaded
    rows["test"][0]["answer"] = "13"
    assert load_problem_set(_write(tmp_path, rows), "integer").test[0].answer == "13"


def test_the_domains_may_be_put_in_order(tmp_path: Path) -> None:
    source = _write(tmp_path, _rows())
    assert load_problem_set(source, "integer", domains=("acids", "optics")).domains == ("acids", "optics")


def test_blank_lines_a_byte_order_mark_and_odd_separators_are_no_matter(tmp_path: Path) -> None:
    rows = _rows()
    rows["test"][0]["question"] = "one\u2028line"
    source = _write(tmp_path, rows)
    train = tmp_path / "train.jsonl"
    train.write_bytes(b"\xef\xbb\xbf" + train.read_bytes().replace(b"\n", b"\r\n\r\n"))
    loaded = load_problem_set(source, "integer")
    assert len(loaded.train) == 2
    assert loaded.test[0].question == "one\u2028line"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"answer": 12},
            r'train.jsonl:2: answer: expected a valid string, got 12; write it in quotes, as a text: "12"',
        ),
        ({"answer": "$1,200$ m"}, r"expects an integer .* got '\$1,200\$ m'; write it as '1200'"),
        ({"answer": "12 * 3 = 36\n#### 36"}, r"expects an integer .*; write it as '36'"),
        ({"answer": "Paris"}, r"expects an integer .* got 'Paris'; .*as multiple choice .problems.format = 'mcq'"),
        ({"answer": "12.5"}, r"train.jsonl:2: the format integer expects an integer .* got '12.5'"),
        ({"question": ""}, r"train.jsonl:2: question: expected at least 1 character, got ''"),
        ({"question": " \n"}, r"train.jsonl:2: question: expected more than white space, got ' \\n'"),
        ({"level": 3}, r"train.jsonl:2: expected only the fields id, domain, .*, got 'level'"),
        ({"id": "train optics"}, r"train.jsonl:2: expected a new id, got 'train optics' as in .*train.jsonl:1"),
        ({"system": "You are."}, r"train.jsonl:2: the format integer has no system message"),
        (
            {"domain": "biology"},
            r"problem 'validation acids' is of domain 'acids', expected one of optics, biology",
        ),
    ],
)
def test_a_bad_row_is_refused_with_file_line_and_what_came(tmp_path: Path, change: Row, message: str) -> None:
    rows = _rows()
    rows["train"][1] |= change
    with pytest.raises(ProblemSetError, match=message):
        load_problem_set(_write(tmp_path, rows), "integer")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{oops\n", r"test.jsonl:1: expected a JSON object, got '\{oops'"),
        (b"[\n", r"test.jsonl:1: expected a JSON object, got '\[' \(.*\)\. JSON lines are one object a line.*jq -c"),
        (b'[{"id": "x"}]\n', r"test.jsonl:1: expected an object with the fields .*, got .*jq -c '\.\[\]'"),
        (
            b"{\n",
            r"test.jsonl:1: expected a JSON object, got '\{' \(.*\)\. JSON lines are one object a line; `jq -c \.`",
        ),
        (b"\xff\xfe{\x00", r"test.jsonl: expected lines of JSON, got other bytes; it looks like UTF-16, save it as"),
        (b'{\x00"\x00', r"test.jsonl: expected lines of JSON, got other bytes; it looks like UTF-16"),
        (b"PAR1\x15", r"test.jsonl: expected lines of JSON, got other bytes; it looks like Parquet, write its rows as"),
        (b"\x28\xb5\x2f\xfd\x04", r"test.jsonl: .*; it looks like a compressed file, unpack it"),
        (b"id,question,answer\n", r"test.jsonl:1: .*It looks like a table, CSV or TSV: write its rows as JSON lines"),
        (b" \n", r"test.jsonl: expected problems, an object of JSON a line .docs/data.md., the file has none"),
        (b"\x1f\x8b\x08", r"test.jsonl: expected lines of JSON, got other bytes; it looks like gzip, unpack it"),
        (
            b"\n\n" + _line(question="caf\xe9").decode().encode("latin-1"),
            r"test.jsonl:3: .*, got the byte 0xe9 in anot",
        ),
        (
            _line(question="half \\ud83d"),
            r"test.jsonl:1: expected a JSON object, got .* \(unexpected end of hex escape\)",
        ),
        (b'{"id": "x", "id": "y"}\n', r"test.jsonl:1: expected the field 'domain', it is missing"),
        (_line(extra='"id": "y", '), r"test.jsonl:1: expected each field once, got 'id' twice"),
        (_line(question="a\\u0000b"), r"test.jsonl:1: question: expected text without NUL .*, got 'a\\x00b'"),
        (_line(answer="a\x00b"), r"test.jsonl:1: expected a JSON object, got '\{.*"),
        (b'{"id": NaN}\n', r"test.jsonl:1: id: expected a valid string, got nan"),
        (b"[" * 5000 + b"\n", r"test.jsonl:1: expected a JSON object, got '\[+'… \(5,000 characters\)"),
        (b"[1, 2]\n", r"test.jsonl:1: expected an object with the fields id, domain"),
        (b'{"id": "x"}\n', r"test.jsonl:1: expected the field 'domain', it is missing"),
    ],
)
def test_a_bad_line_is_refused(tmp_path: Path, line: bytes, message: str) -> None:
    source = _write(tmp_path, _rows())
    (tmp_path / "test.jsonl").write_bytes(line)
    with pytest.raises(ProblemSetError, match=message):
        load_problem_set(source, "integer")


@pytest.mark.parametrize("field", ["id", "domain", "answer", "question", "x" * 10**6])
@pytest.mark.parametrize("value", ["a" * 10**6, ["a" * 10**6], {"a": "b" * 10**6}])
def test_no_value_makes_a_message_long(tmp_path: Path, field: str, value: object) -> None:
    rows = _rows()
    rows["train"][1] |= {field: value}
    if (field, type(value)) == ("question", str):
        rows["train"][1]["answer"] = "no integer"
    with pytest.raises(ProblemSetError, match=r"expect") as refused:
        load_problem_set(_write(tmp_path, rows), "integer")
    assert len(str(refused.value)) < 400 + len(str(tmp_path))


def test_an_array_of_all_rows_is_refused_with_what_to_do(tmp_path: Path) -> None:
    source = _write(tmp_path, _rows())
    (tmp_path / "test.jsonl").write_text(json.dumps([_row(f"row {n}", "optics") for n in range(2000)]))
    with pytest.raises(ProblemSetError, match=r"JSON lines are one object a line") as refused:
        load_problem_set(source, "integer")
    assert len(str(refused.value)) < 400 + len(str(tmp_path))


def test_ids_of_two_normal_forms_are_one_and_of_two_cases_two(tmp_path: Path) -> None:
    rows = _rows()
    rows["test"].append(_row("TEST optics", "optics", question="Another?"))
    rows["test"].append(_row("re\u0301ponse", "optics", question="Une?"))
    source = _write(tmp_path, rows)
    assert len(load_problem_set(source, "integer").test) == 4
    rows["test"].append(_row("r\u00e9ponse", "optics", question="Deux?"))
    with pytest.raises(ProblemSetError, match=r"test.jsonl:5: expected a new id, got 'réponse' as in .*test.jsonl:4"):
        load_problem_set(_write(tmp_path, rows), "integer")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    source = _write(tmp_path, _rows())
    (tmp_path / "validation.jsonl").unlink()
    (tmp_path / "val.csv").touch()
    said = r"validation.jsonl: expected this file, .*; its directory has 'test.jsonl', 'train.jsonl', 'val.csv'"
    with pytest.raises(ProblemSetError, match=said):
        load_problem_set(source, "integer")


def test_a_directory_of_tables_is_told_what_to_do_with_them(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000-of-00001.parquet").touch()
    said = (
        r"has 'data'; write the rows of 'data/train-00000-of-00001.parquet' and its like as JSON lines .* train.jsonl"
    )
    with pytest.raises(ProblemSetError, match=said):
        load_problem_set(str(tmp_path), "integer")


def test_a_row_may_have_null_where_it_may_have_nothing(tmp_path: Path) -> None:
    rows = _rows()
    rows["train"][0] |= {"kind": None, "solution": None, "system": None}
    assert load_problem_set(_write(tmp_path, rows), "integer").train[0].kind == ""


def test_a_domain_without_problems_is_refused(tmp_path: Path) -> None:
    rows = _rows()
    rows["test"].pop()
    with pytest.raises(ProblemSetError, match="expected problems of 'acids' in the partition test, got none"):
        load_problem_set(_write(tmp_path, rows), "integer")


@pytest.mark.parametrize(
    ("domain", "said"),
    [
        ("Acids", r"it has those of 'acids', 'optics' \(did you mean 'acids'\?\): set students\.<name>\.domain"),
        ("law", r"it has those of 'acids', 'optics': set students\.<name>\.domain to one that the set has"),
    ],
)
def test_a_domain_that_no_row_has_is_told_with_those_that_there_are(tmp_path: Path, domain: str, said: str) -> None:
    with pytest.raises(ProblemSetError, match=f"'{domain}' in the partition train, got none; {said}"):
        load_problem_set(_write(tmp_path, _rows()), "integer", domains=(domain, "optics"))


def test_a_partition_that_lacks_a_domain_of_others_is_told_so(tmp_path: Path) -> None:
    rows = _rows()
    rows["train"] += [_row(f"more {i}", f"domain {i}", question=f"More {i}?") for i in range(9)]
    rows["train"].append(_row("third", "optik"))
    with pytest.raises(ProblemSetError, match=r"it has those of 'acids', 'optics': add some of 'domain 0', or take"):
        load_problem_set(_write(tmp_path, rows), "integer")
    with pytest.raises(ProblemSetError, match=r"'domain 0', 'domain 1', 'domain 2', 'domain 3' and of 7 more: set"):
        load_problem_set(_write(tmp_path, rows), "integer", domains=("law",))


def test_too_few_problems_to_evaluate_on_are_told_with_the_setting(tmp_path: Path) -> None:
    problems = load_problem_set(_write(tmp_path, _rows()), "integer")
    overrides = ["evaluation.validation_problems=1", "evaluation.test_problems=9"]
    settings = load_settings(preset="smoke", overrides=overrides, environ={})
    with pytest.raises(ConfigError, match=r"in the partition test, got 1: set evaluation\.test_problems to at most 1"):
        evaluated_problems(settings, problems)


def test_rows_that_git_lfs_keeps_are_told_as_what_they_are(tmp_path: Path) -> None:
    source = _write(tmp_path, _rows())
    (tmp_path / "train.jsonl").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ProblemSetError, match=r"train\.jsonl: expected lines of JSON, .*git lfs pull"):
        load_problem_set(source, "integer")


@pytest.mark.parametrize("named", [None, ("acids",), ("acids", "optics")])
def test_domains_are_the_named_ones_and_then_the_others_of_the_training_rows(
    tmp_path: Path, named: tuple[str, ...] | None
) -> None:
    rows = _rows()
    for partition, of_it in rows.items():
        of_it.append(_row(f"{partition} third", "optics 2"))
    found = load_problem_set(_write(tmp_path, rows), "integer", domains=named).domains
    assert found == (("optics", "acids") if named is None else ("acids", "optics")) + ("optics 2",)


def test_a_domain_that_only_training_rows_have_is_refused(tmp_path: Path) -> None:
    rows = _rows()
    rows["train"].append(_row("third", "optik"))
    with pytest.raises(ProblemSetError, match="expected problems of 'optik' in the partition validation, got none"):
        load_problem_set(_write(tmp_path, rows), "integer")


def test_a_question_in_two_partitions_is_refused_with_both_ids(tmp_path: Path) -> None:
    rows = _rows()
    rows["test"][0]["question"] = "WHAT is: train  optics"
    with pytest.raises(ProblemSetError, match=r"got 1 .*'train optics' in train and 'test optics' in test"):
        load_problem_set(_write(tmp_path, rows), "integer")


def test_a_question_twice_in_one_partition_is_no_leak(tmp_path: Path) -> None:
    rows = _rows()
    rows["train"].append(_row("again", "optics", question="What is train optics?"))
    assert len(load_problem_set(_write(tmp_path, rows), "integer").train) == 3


def test_a_question_that_is_asked_again_with_another_answer_is_told(tmp_path: Path) -> None:
    rows = _rows()
    options = "Which?\nA: {}\nB: {}"
    rows["train"] = [
        _row("plain", "optics", question="Is it?\nA: yes\nB: no", answer="A"),
        _row("same", "optics", question=options.format("red", "blue"), answer="A"),
        _row("turned", "acids", question=options.format("blue", "red"), answer="B"),
        _row("other", "acids", question=options.format("Blue", "red"), answer="A"),
    ]
    for part in ("validation", "test"):
        rows[part] = [{**row, "question": f"{row['id']}?\nA: x\nB: y", "answer": "A"} for row in rows[part]]
    loaded = load_problem_set(_write(tmp_path, rows), "mcq")
    assert loaded.contradicted == (("same", "other"),)
    told = contradictions(loaded)
    assert told is not None and "another answer: 1, first 'other' as 'same'; " in told
    del rows["train"][3]
    assert contradictions(load_problem_set(_write(tmp_path, rows), "mcq")) is None


def test_a_right_option_that_stands_under_two_letters_is_told(tmp_path: Path) -> None:
    rows = _rows()
    for part, problems in rows.items():
        for row in problems:
            row |= {"question": f"{part} {row['domain']}?\nA: Co\nB: CO\nC: x\ny\nD: x\nE: x\nSay why.", "answer": "A"}
    assert told_of(load_problem_set(_write(tmp_path, rows), "mcq")) == []
    rows["test"][1]["answer"] = "D"
    [told] = told_of(load_problem_set(_write(tmp_path, rows), "mcq"))
    assert "under another letter, too: 1, first 'test acids'; whoever" in told


def test_a_directory_needs_a_format(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a format of integer, mcq for it, got none"):
        load_problem_set(_write(tmp_path, _rows()))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("genrated", "got 'genrated'; did you mean 'generated'"),
        ("/no/such/place", "got '/no/such/place'$"),
        (__file__, "test_loading.py'; it is a file: name the directory with train.jsonl, validation.jsonl, test.jsonl"),
        ("owner/questions", "got 'owner/questions'; of the hub's data sets SciKnowEval's alone is read as it is"),
    ],
)
def test_an_unknown_source_is_refused(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_problem_set(source, "integer")


def test_generated_refuses_what_it_cannot_be() -> None:
    with pytest.raises(ConfigError, match="the format integer, got 'mcq'"):
        load_problem_set("generated", "mcq")
    with pytest.raises(
        ConfigError, match=r"domains that are generated \(physics, chemistry, biology\), got optics, acids"
    ):
        load_problem_set("generated", domains=("optics", "acids"))
