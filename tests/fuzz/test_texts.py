"""What people write: problems and examples, settings, keys, passwords and URLs."""

import json

from hypothesis import strategies as st

from services.student.engines.vllm.client import VllmClient
from shared.bus.redis_link import RedisLink
from shared.bus.redis_url import names_password, with_password
from shared.config.loading import PRESETS, load_settings, settings_of, to_toml
from shared.files.text import expanded
from shared.http.access import read_keys
from shared.http.addresses import is_loopback, needs_dns, split_place
from shared.problems.examples import read_examples
from shared.problems.generated import generate
from shared.problems.loading import load_problem_set
from tests.fakes import sciknoweval
from tests.fuzz.harness import SECRET, Fuzz
from tests.fuzz.mutation import TEXTS, damaged, lines_like, of_kinds, text_like

DOMAINS = ("physics", "chemistry")
PROBLEMS = [
    {
        "id": f"p{number}",
        "domain": domain,
        "question": f"What is {number} + 1 in {domain}?\nA: 1\nB: 2\nC: 3\nD: 4",
        "answer": "B" if number else "2",
        "kind": "sum",
        "solution": "1 + 1 = 2 <answer>B</answer>",
        "system": "Pick one.",
    }
    for number, domain in enumerate(DOMAINS * 2)
]
EXAMPLES = [
    {"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": text}], "completion": "2"}
    for text in ("What is 1 + 1?", "And 2 + 2?")
]
SETTINGS = [(PRESETS / f"{name}.toml").read_text() for name in ("smoke", "laptop")]
OVERRIDES = (
    *("run.seed=3", 'students.a.domain="physics"', "students.a.vllm.url=http://127.0.0.1:8000", "rollout.top_p=0.5"),
    *("students.a.vllm.environment={A='1'}", 'students.b.vllm.arguments=["--x"]', "gate.mode=always", "bus.lease_s=9"),
)
KEYS = f"admin {SECRET}\nask {SECRET}2\nread {SECRET}3\n"
REDIS = (
    f"redis://user:{SECRET}@host:6379/0",
    f"rediss://:{SECRET}@[::1]:6379/1?socket_timeout=5",
    f"unix:///run/redis.sock?db=1&password={SECRET}",
    "redis://host",
    "redis://user@host:6379",
)
VLLM = ("http://127.0.0.1:8000", "unix:/run/vllm.sock", "https://[::1]:8000", "http://vllm-a:8000")
PLACES = ("localhost:8000", "127.0.0.1", "[::1]:80", "box.local:1", "xn--bcher-kva.example")


def test_problems(fuzz: Fuzz) -> None:
    """Problem files of each format, files of examples, SciKnowEval's rows."""
    problems = generate(0)
    science = sciknoweval.two_domains(fuzz.place / "science", train=6, test=2)
    own = fuzz.place / "own"
    own.mkdir()
    others = lines_of([{**row, "id": f"{row['id']}-t", "question": f"Or {row['question']}"} for row in PROBLEMS])
    for name in ("validation", "test"):
        (own / f"{name}.jsonl").write_bytes(others.replace(b"-t", f"-{name}".encode()).replace(b"Or", name.encode()))

    def attempt(case: tuple[str, bytes]) -> None:
        kind, data = case
        if kind == "examples":
            (fuzz.place / "examples.jsonl").write_bytes(data)
            fuzz.reads(lambda: read_examples(fuzz.place / "examples.jsonl", problems))
        elif kind == "sciknoweval":
            (science / "optics" / "train.json").write_bytes(data)
            source = f"sciknoweval:{science}"
            fuzz.reads(lambda: load_problem_set(source, domains=("optics", "acids"), validation_per_domain=2))
        else:
            (own / "train.jsonl").write_bytes(data)
            found = fuzz.reads(lambda: load_problem_set(str(own), kind))
            assert found is None or len(found.content_hash) == 64

    cases = {
        "integer": lines_like(*PROBLEMS),
        "mcq": lines_like(*PROBLEMS),
        "examples": lines_like(*EXAMPLES),
        "sciknoweval": lines_like(*sciknoweval.plain(0, 6, "lens")),
    }
    fuzz.run(of_kinds(cases), attempt, examples=400)


def test_settings(fuzz: Fuzz) -> None:
    """A file of settings, `--set`, and the environment; what is read is written and read again."""
    file = fuzz.place / "config.toml"
    override = st.sampled_from(OVERRIDES).flatmap(lambda text: damaged(text.encode())).map(argument)
    own = st.tuples(st.sampled_from(OVERRIDES), st.sampled_from(TEXTS)).map(
        lambda pair: f"{pair[0].split('=')[0]}={pair[1]}"
    )

    def attempt(case: tuple[bytes, list[str], str]) -> None:
        data, overrides, variable = case
        file.write_bytes(data)
        environ = {"OPCOD_SET_RUN__SEED": variable}
        found = fuzz.reads(lambda: load_settings(config=file, overrides=overrides, environ=environ))
        if found is not None:
            file.write_text(to_toml(found), encoding="utf-8")
            assert settings_of(fuzz.place) == found

    files = text_like(*SETTINGS) | st.sampled_from(SETTINGS).map(str.encode)
    fuzz.run(
        st.tuples(files, st.lists(override | own, max_size=2), st.just("3") | st.sampled_from(TEXTS)),
        attempt,
        examples=200,
    )


def test_keys_passwords_urls_and_paths(fuzz: Fuzz) -> None:
    """No key or password ever shows in a refusal."""
    file = fuzz.place / "secret"

    def attempt(case: tuple[str, bytes]) -> None:
        kind, data = case
        file.write_bytes(data)
        text = argument(data)
        match kind:
            case "keys":
                fuzz.reads(lambda: read_keys(file).strongest)
            case "password":
                fuzz.reads(lambda: connected(with_password("redis://user@host:6379/0", file)))
            case "redis":
                fuzz.reads(lambda: (connected(text), names_password(text)))
            case "vllm":
                fuzz.reads(lambda: vllm_client(text))
            case "path":
                fuzz.reads(lambda: expanded(text))
            case _:
                fuzz.reads(lambda: (split_place(text), needs_dns(text), is_loopback(text)))

    cases = {
        "keys": text_like(KEYS),
        "password": text_like(SECRET, f"{SECRET}\n"),
        "redis": text_like(*REDIS),
        "vllm": text_like(*VLLM),
        "place": text_like(*PLACES),
        "path": text_like("~/models/a", "~root/x", "data sets/é"),
    }
    fuzz.run(of_kinds(cases), attempt, examples=500)


def lines_of(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def argument(data: bytes) -> str:
    """As it comes from a command line: what is no UTF-8 in surrogates."""
    return data.decode("utf-8", "surrogateescape")


def connected(url: str) -> str:
    """A link that was set up; it connects at its first call only."""
    link = RedisLink(url, deadline_s=1.0)
    link.close()
    return link.url


def vllm_client(url: str) -> str:
    override = f"students.a.vllm.url={url}"
    found = load_settings(preset="smoke", overrides=[override], environ={}).students["a"].vllm.url
    if found is not None:
        VllmClient(found, None).close()
    return str(found)
