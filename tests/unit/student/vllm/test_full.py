"""Full weights on a server that has room for one version, and fails when told to."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.student.board import student_heartbeat
from services.student.engines.port import EngineAwayError, EngineState, VersionTakenError
from services.student.engines.vllm.engine import VllmEngine
from services.student.engines.vllm.full import FullWeights
from services.student.engines.vllm.untied import TIED_FILE, Untied
from services.student.engines.vllm.wire import FOUND_FULL, FULL, Needs
from services.student.weights.loader import VersionRefusedError, WeightLoader
from shared.contracts.jobs import JobDone, JobKind
from shared.errors import ModelError
from shared.modeling.checksums import file_checksum
from shared.modeling.fitting import tied_names
from shared.modeling.loading import load_model, load_skeleton, load_tokenizer
from shared.modeling.versions import MODEL_FILE, model_tensors
from tests.fakes.bus.memory_server import MemoryServer
from tests.fakes.student import APART, StudentBench, prepare_models, publish_version
from tests.fakes.vllm import BASE
from tests.fakes.vllm_bench import Bench, request, until
from tests.unit.modeling.tiny_model import write_tiny_model

Tensors = dict[str, torch.Tensor]


class FullBench(Bench):
    """With the real clock's watch; versions 1 and 2 are the base model with other embeddings."""

    def __init__(self, directory: Path, model: Path, needs: Needs = FULL) -> None:
        super().__init__(directory, needs)
        self.directory = directory
        self.tensors = model_tensors(load_model(model, "float32"))
        checksum, skeleton = file_checksum(*model.glob("*.safetensors")), load_skeleton(model, "float32")
        weights = FullWeights(self.server, model, checksum, Path(BASE), skeleton, None)
        tokenizer = load_tokenizer(model, "compact")
        self.engine = VllmEngine(self.server, weights, model, tokenizer, vocabulary_size=258, slots=4)

    def version(self, number: int) -> Path:
        name = next(iter(self.tensors))
        return self.write(f"v{number}", {**self.tensors, name: self.tensors[name] + number})

    def write(self, name: str, tensors: Tensors) -> Path:
        made = self.directory / name
        made.mkdir()
        save_file(tensors, made / MODEL_FILE)
        return made

    def served_by(self, version: str) -> tuple[str | None, str | None]:
        """The weights that the server had when it answered, and the salt."""
        self.engine.generate([request(version)])
        return self.fake.seen[-1]


@pytest.fixture
def bench(tmp_path: Path, tiny_dir: Path) -> Iterator[FullBench]:
    bench = FullBench(tmp_path, tiny_dir)
    yield bench
    bench.close()


def test_each_answer_is_of_its_versions_weights_with_a_salt_of_that_time(bench: FullBench) -> None:
    places = {f"a@v{number}": str(bench.version(number)) for number in (1, 2)} | {"a@v0": BASE}
    for version, place in places.items():
        bench.engine.load(version, None if place == BASE else Path(place))
    turns = [bench.served_by(version) for version in ("a@v0", "a@v1", "a@v1", "a@v2", "a@v1")]
    assert [weights for weights, _ in turns] == [places[f"a@v{number}"] for number in (0, 1, 1, 2, 1)]
    salts = [salt for _, salt in turns]
    assert salts[1] == salts[2] and len(set(salts)) == 4
    mixed = bench.engine.generate([request("a@v1"), request("a@v2"), request("a@v1")])
    assert len(mixed) == 3 and [weights for weights, _ in bench.fake.seen[-3:]].count(places["a@v2"]) == 1
    assert {body["model"] for body in bench.fake.bodies} == {BASE}
    assert bench.engine.health().state is EngineState.READY


def test_what_the_server_cannot_read_is_refused_and_the_last_version_read_again(bench: FullBench) -> None:
    first, second = bench.version(1), bench.version(2)
    bench.engine.load("a@v1", first)
    bench.fake.unreadable.add(str(second))
    with pytest.raises(ModelError, match=r"could not read .*v2; it has the weights of .*v1 again"):
        bench.engine.load("a@v2", second)
    assert list(bench.engine.versions()) == ["a@v1"]
    assert bench.served_by("a@v1")[0] == str(first) and not bench.fake.paused.is_set()


def test_a_server_that_cannot_read_the_last_version_either_is_ended_and_begun_again(bench: FullBench) -> None:
    first, second = bench.version(1), bench.version(2)
    bench.engine.load("a@v1", first)
    life = bench.server.life
    bench.fake.unreadable |= {str(first), str(second)}
    with pytest.raises(EngineAwayError, match="lost while it read"):
        bench.engine.load("a@v2", second)
    assert bench.engine.versions() == {}
    with pytest.raises(EngineAwayError, match="with it a@v1"):
        bench.engine.generate([request("a@v1")])
    bench.fake.restart_empty()
    until(lambda: bench.server.life.client is not life.client)
    bench.server.look()
    until(lambda: bench.engine.health().state is EngineState.EMPTY)
    bench.fake.unreadable.clear()
    bench.engine.load("a@v1", first)
    assert bench.served_by("a@v1")[0] == str(first)


def test_files_that_were_written_after_the_check_are_not_read(bench: FullBench) -> None:
    """Then the version is to be loaded again, by name, and its name is taken."""
    first, second = bench.version(1), bench.version(2)
    bench.engine.load("a@v1", first)
    bench.engine.load("a@v2", second)
    shutil.copyfile(second / MODEL_FILE, first / MODEL_FILE)
    with pytest.raises(ModelError, match="after it was checked"):
        bench.engine.generate([request("a@v1")])
    assert list(bench.engine.versions()) == ["a@v2"]
    with pytest.raises(VersionTakenError):
        bench.engine.load("a@v1", first)
    assert bench.served_by("a@v2")[0] == str(second)


def _one_row_less(tensors: Tensors, name: str) -> None:
    tensors[name] = tensors[name][:-1].contiguous()


def _other_dtype(tensors: Tensors, name: str) -> None:
    tensors[name] = tensors[name].bfloat16()


def _not_finite(tensors: Tensors, name: str) -> None:
    tensors[name] = torch.full_like(tensors[name], torch.inf)


def _one_more(tensors: Tensors, name: str) -> None:
    tensors[f"{name}.more"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_one_row_less, "names or shapes differ"),
        (lambda tensors, name: tensors.pop(name), "names or shapes differ"),
        (_one_more, "names or shapes differ"),
        (_other_dtype, r"expected weights in torch\.float32"),
        (_not_finite, "expected finite weights"),
        (lambda tensors, _: tensors.clear(), "names or shapes differ"),
    ],
)
def test_a_version_of_another_form_never_reaches_the_server(
    bench: FullBench, spoil: Callable[[Tensors, str], None], said: str
) -> None:
    tensors = dict(bench.tensors)
    spoil(tensors, next(name for name in tensors if "down_proj" in name))
    with pytest.raises(ModelError, match=said):
        bench.engine.load("a@v3", bench.write("v3", tensors))
    (bench.directory / "none").mkdir()
    with pytest.raises(ModelError, match="found none"):
        bench.engine.load("a@v3", bench.directory / "none")
    assert bench.fake.weights == BASE and bench.engine.versions() == {}


def test_every_version_is_probed(bench: FullBench, tmp_path: Path) -> None:
    loader = WeightLoader(tmp_path / "weights" / "a", run="test", student="a", engine=bench.engine, base_model=None)
    for number, probe in ((1, (-2.0, -2.0, -2.0)), (2, (-0.5, -0.5, -0.5))):
        file = bench.version(number) / MODEL_FILE
        content = {MODEL_FILE: file.read_bytes(), "config.json": b"{}"}
        publish_version(tmp_path, number, content, kind="full", checksum=file_checksum(file), probe=probe)
    loader.load("a@v1")
    with pytest.raises(VersionRefusedError, match="mean log-probs"):
        loader.load("a@v2")
    assert list(bench.engine.versions()) == ["a@v1"]
    assert bench.served_by("a@v1")[0] == str(tmp_path / "weights" / "a" / "v000001")


def test_of_two_replicas_one_reads_each_live_version_and_the_other_none(tmp_path: Path, tiny_dir: Path) -> None:
    """Their servers have the tutor's from the start, which is the base model's."""
    prepare_models(tmp_path, "a")
    server, students = MemoryServer(), []
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
        full = FullBench(tmp_path / name, tiny_dir)
        student = StudentBench(tmp_path, *APART, "bus.heartbeat_s=0.001", continuous=True, replica=name, server=server)
        student.use(full.engine)
        students.append((student, full))

    def turn() -> list[JobDone]:
        done = []
        for student, _ in students:
            beat = student_heartbeat(student.config, student.board, student.clock, student.stopping)
            student.bus.beat(beat, ttl_s=600)
            done += student.done()
        return done

    try:
        for _ in range(3):  # until each knows that the other is ready
            turn()
        for number in (1, 2, 3):
            file = students[0][1].version(number) / MODEL_FILE
            content = {MODEL_FILE: file.read_bytes(), "config.json": b"{}"}
            publish_version(tmp_path, number, content, kind="full", checksum=file_checksum(file))
            students[0][0].broker.serve(f"a@v{number}", "a@v0")
            turn()
            students[0][0].broker.issue(JobKind.ROLLOUT, number, version=f"a@v{number}")
            students[0][0].broker.issue(JobKind.FEEDBACK, number)
            done: list[JobDone] = []
            while len(done) < 2:
                done += turn()
            assert {(each.kind, each.replica, each.outcome) for each in done} == {
                (JobKind.ROLLOUT, "0", "ok"),
                (JobKind.FEEDBACK, "1", "ok"),
            }
        weights = tmp_path / "weights" / "a"
        assert students[0][1].fake.reads == [str(weights / f"v00000{number}") for number in (1, 2, 3)]
        assert students[1][1].fake.reads == []
    finally:
        for student, full in students:
            student.close()
            full.close()


@pytest.fixture
def found(tmp_path: Path, tiny_dir: Path) -> Iterator[FullBench]:
    """Of a server that somebody else starts."""
    bench = FullBench(tmp_path, tiny_dir, FOUND_FULL)
    yield bench
    bench.close()


def test_a_found_server_is_given_weights_and_a_mark_before_it_answers(found: FullBench) -> None:
    """A student before this one has left it with weights of its own."""
    found.fake.weights, found.fake.mark = "/weights/a/v000007", "0123456789abcdef-feed-3"
    found.engine.load("a@v0", None)
    assert found.served_by("a@v0")[0] == BASE
    assert found.fake.mark.startswith(found.engine.versions()["a@v0"][:16])
    marks = {found.fake.mark}
    for number in (1, 2, 1):
        directory = found.directory / f"v{number}"
        found.engine.load(f"a@v{number}", directory if directory.exists() else found.version(number))
        assert found.served_by(f"a@v{number}")[0] == str(directory)
        marks.add(found.fake.mark)
    assert len(marks) == 4
    found.server.turn()
    assert found.engine.health().state is EngineState.READY


def test_no_answer_of_a_found_server_counts_that_was_started_again(found: FullBench) -> None:
    first = found.version(1)
    found.engine.load("a@v1", first)
    before = len(found.fake.seen)
    found.fake.restart_empty()
    with pytest.raises(EngineAwayError, match="started again or given other weights: it calls them 'default'"):
        found.engine.generate([request("a@v1")])
    assert found.fake.seen[before][0] == BASE
    until(lambda: found.engine.health().state is EngineState.EMPTY)
    with pytest.raises(EngineAwayError, match="with it a@v1"):
        found.engine.generate([request("a@v1")])
    found.engine.load("a@v1", first)
    assert found.served_by("a@v1")[0] == str(first)


def test_a_found_server_that_lost_its_weights_is_seen_by_the_watch(found: FullBench) -> None:
    found.engine.load("a@v1", found.version(1))
    found.fake.restart_empty()
    found.server.turn()
    assert found.engine.health().state is EngineState.EMPTY and found.engine.versions() == {}


def test_a_found_server_that_is_started_again_in_a_read_has_not_read(found: FullBench) -> None:
    first = found.version(1)
    found.engine.load("a@v0", None)
    found.fake.restarts_in_a_read = True
    life = found.server.life
    with pytest.raises(EngineAwayError, match="lost while it read"):
        found.engine.load("a@v1", first)
    assert found.engine.versions() == {}
    found.fake.restarts_in_a_read = False
    until(lambda: found.server.life.client is not life.client)
    found.server.look()
    until(lambda: found.engine.health().state is EngineState.EMPTY)
    found.engine.load("a@v1", first)
    assert found.served_by("a@v1")[0] == str(first)


def test_a_found_server_that_was_left_paused_goes_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, FOUND_FULL)
    bench.fake.paused.set()
    assert bench.server.start() == "0.32.0"
    assert not bench.fake.paused.is_set()
    bench.close()


def test_what_ties_its_output_layer_is_served_with_that_layer_by_name(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    skeleton = load_skeleton(model, "float32")
    assert all(one.is_meta for one in skeleton.parameters())
    tied = tied_names(skeleton)
    untied = Untied(tmp_path / "engines", tied)
    made = untied.add("base", model)
    served = {name: one for file in made.glob("*.safetensors") for name, one in load_file(file).items()}
    assert tied and all(torch.equal(served[alias], served[name]) for alias, name in tied.items())
    assert tied_names(load_skeleton(made, "float32")) == {}
    assert served.keys() == dict(load_skeleton(made, "float32").named_parameters()).keys()
    other = untied.add("a@v1", model)
    untied.keep([made])
    assert (made / TIED_FILE).is_file() and not other.exists() and (model / MODEL_FILE).is_file()
