"""The documentation agrees with the tree: links, settings and files that it names, examples, the generated page."""

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

from services.inspector.http import views
from shared.config.loading import load_settings
from shared.config.settings import RunSettings
from shared.config.students import StudentSection
from shared.contracts import acting, batches, completions, http, openai, weights

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
METHOD = ROOT / "docs" / "method.md"
LAPTOP_PART = "## The laptop preset"

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_SETTING = re.compile(r"([a-z][a-z_]*(?:\.[a-z][a-z_0-9]*)+)(?:\s*=\s*(.+))?")
_FILE = re.compile(r"(?:\.\./)?[\w.-]+(?:/[\w.-]+)+\.(?:py|md|toml|jinja|lua|yml)")
_FILE_NAME = re.compile(r".*\.(?:py|md|toml|json|jsonl|jinja|lua|yml|safetensors|log|url|sqlite3|env)")
_EXAMPLE = re.compile(r"<!-- example: (\w+) -->\n+```json\n(.*?)```", re.DOTALL)

EXAMPLES = _EXAMPLE.findall((ROOT / "docs" / "api.md").read_text())


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_configuration", ROOT / "docs" / "generate_configuration.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(page: Path) -> set[str]:
    """Ids of a page's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def relative_links(page: Path) -> Iterator[tuple[Path, str]]:
    """(target, anchor) of each link that does not leave the project."""
    for link in _LINK.findall(page.read_text()):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        yield (page.parent / path).resolve() if path else page, anchor


def default_settings() -> RunSettings:
    domains = {"a": "physics", "b": "chemistry", "c": "biology"}
    return RunSettings(students={name: StudentSection(domain=domain) for name, domain in domains.items()})


def value_of(settings: RunSettings, key: str) -> object:
    """The value of `section.key`. Raises KeyError if there is no such setting."""
    value: object = settings
    for part in key.split("."):
        if isinstance(value, dict):
            value = value[part]
        elif isinstance(value, BaseModel) and part in type(value).model_fields:
            value = getattr(value, part)
        else:
            raise KeyError(key)
    return value


def settings_named(text: str) -> Iterator[tuple[str, str | None]]:
    """(`section.key`, value or None) of each code span of that form."""
    for code in _CODE.findall(text):
        match = _SETTING.fullmatch(code)
        if match is not None and not _FILE_NAME.fullmatch(match[1]):
            yield match[1], match[2]


def schema_named(name: str) -> type[BaseModel]:
    for module in (http, acting, openai, completions, batches, weights, views):
        found = getattr(module, name, None)
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
    raise AssertionError(f"no schema is called {name}")


def test_configuration_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == generator().page(), "run `python docs/generate_configuration.py`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_resolve(page: Path) -> None:
    for target, anchor in relative_links(page):
        assert target.exists(), f"{page.name} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(target), (
                f"{page.name} links to #{anchor}; {target.name} has {sorted(anchors(target))}"
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_named_exist(page: Path) -> None:
    named = [code for code in _CODE.findall(page.read_text()) if _FILE.fullmatch(code)]
    missing = [name for name in named if not (ROOT / name).exists() and not (page.parent / name).exists()]
    assert not missing, f"{page.name} names files that are not there: {missing}"


def test_settings_named_in_the_method_exist_with_the_values_it_says() -> None:
    """Before the laptop's part `section.key = value` is a default, in it the preset's value."""
    general, _, laptop = METHOD.read_text().partition(LAPTOP_PART)
    assert laptop, f"docs/method.md has no part {LAPTOP_PART!r}"
    for text, settings in ((general, default_settings()), (laptop, load_settings(preset="laptop", environ={}))):
        named = list(settings_named(text))
        assert len(named) > 5
        for key, said in named:
            value = value_of(settings, key)
            if said is not None:
                assert json.loads(said) == value, f"docs/method.md says {key} = {said}, it is {value!r}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_settings_named_exist(page: Path) -> None:
    for key, _ in settings_named(page.read_text()):
        if key.split(".")[0] in RunSettings.model_fields:
            value_of(default_settings(), key)


@pytest.mark.parametrize(("name", "body"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_examples_fit_their_schema(name: str, body: str) -> None:
    schema_named(name).model_validate_json(body)


def test_every_decision_has_one_dated_page() -> None:
    pages = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [page.name[:4] for page in pages] == [f"{number:04d}" for number in range(1, len(pages) + 1)]
    for page in pages:
        text = page.read_text()
        assert re.search(r"^Date: \d{4}-\d{2}-\d{2}$", text, re.MULTILINE), page.name
        assert len(text.splitlines()) <= 60, page.name


def test_an_unknown_setting_is_seen() -> None:
    assert list(settings_named("`gate.tau = 0.2` and `services/broker/app.py`, `gate.py`")) == [("gate.tau", "0.2")]
    with pytest.raises(KeyError):
        value_of(default_settings(), "gate.sigma")
    with pytest.raises(KeyError):
        value_of(default_settings(), "students.d.domain")
