"""The bounds on names, sizes and words that CONTRIBUTING sets for the packages and their tests."""

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(file for package in ("loco_otel", "instrumentation") for file in (ROOT / package).rglob("*.py"))
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))
TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in (*FILES, *TEST_FILES)}
TEST_NAMES = [
    node.name
    for file in TEST_FILES
    for node in ast.walk(TREES[file])
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
]

PUBLISHED_NAMES = {"OpenAIAdapter", "AnthropicAdapter", "BedrockAdapter"}
"""Classes of loco-agent's API that have the name of an SDK folder's adapter."""
ONE_WORD_SHARE = 0.4
MODULE_LINES = 450
TOP_LEVEL_MODULES = 10
PERSON_WORDS_PER_1000 = 2.0
TEST_NAME_LENGTH = 60

PERSON_WORDS = (
    *("who", "whom", "whoever", "tell", "tells", "told", "telling", "say", "says", "said", "saying"),
    *("look", "looks", "looked", "looking", "stand", "stands", "stood", "standing", "want", "wants", "wanted"),
    *("know", "knows", "knew", "go on", "goes on", "going on", "went on", "let in", "lets in"),
    *("anew", "in vain", "so many", "beyond"),
)
"""Words that describe code as a person."""
_PERSON_WORD = re.compile(rf"\b(?:{'|'.join(PERSON_WORDS)})\b".replace(" ", r"\s+"), re.IGNORECASE)


def _list_prose(file: Path) -> Iterator[str]:
    """Yield each comment and docstring of a module."""
    for token in tokenize.generate_tokens(io.StringIO(file.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lstrip("#")
    for node in ast.walk(TREES[file]):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def test_files_are_found() -> None:
    assert len(FILES) > 100
    assert len(TEST_NAMES) > 1000


def test_one_word_function_names_are_few() -> None:
    names = [
        node.name.strip("_")
        for file in FILES
        for node in ast.walk(TREES[file])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("__")
    ]
    assert sum("_" not in name for name in names) / len(names) <= ONE_WORD_SHARE


def test_class_names_are_unique() -> None:
    names = Counter(node.name for file in FILES for node in ast.walk(TREES[file]) if isinstance(node, ast.ClassDef))
    assert {name for name, count in names.items() if count > 1} == PUBLISHED_NAMES


def test_modules_are_short() -> None:
    lines = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8").count("\n") for file in FILES}
    assert {name: count for name, count in lines.items() if count > MODULE_LINES} == {}


def test_top_level_modules_are_few() -> None:
    modules = [file for file in FILES if file.parent == ROOT / "loco_otel" and file.name != "__init__.py"]
    own = [file.name for file in modules if "\nsys.modules[__name__] = " not in file.read_text(encoding="utf-8")]
    assert len(own) <= TOP_LEVEL_MODULES, own


@pytest.mark.parametrize("files", [FILES, TEST_FILES], ids=["packages", "tests"])
def test_personifying_words_are_few(files: list[Path]) -> None:
    texts = [text for file in files for text in _list_prose(file)]
    found = Counter(word.lower() for text in texts for word in _PERSON_WORD.findall(text))
    share = 1000 * found.total() / sum(len(text.split()) for text in texts)
    assert share <= PERSON_WORDS_PER_1000, found.most_common()


def test_test_names_are_short() -> None:
    assert [name for name in TEST_NAMES if len(name) > TEST_NAME_LENGTH] == []


def test_test_names_have_no_personifying_word() -> None:
    assert [name for name in TEST_NAMES if _PERSON_WORD.search(name.replace("_", " "))] == []
