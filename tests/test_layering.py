"""The arrows of the architecture, read off the import statements: what may know what."""

from __future__ import annotations

import ast
import graphlib
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WEB = {"litestar", "starlette", "uvicorn", "httptools", "uvloop"}
RUNTIMES = {
    *("torch", "torchaudio", "transformers", "peft", "bitsandbytes", "accelerate"),
    *("ctranslate2", "onnxruntime", "openvino", "silero_vad"),
}
RUNTIMES_OUTSIDE_THE_ENGINE = {
    "serve.audio.samples": {"torch", "torchaudio"},
    "serve.audio.segmentation.speech": {"onnxruntime", "silero_vad"},  # the detector of speech
}
TRAIN_EXTRAS = ("train", "hub", "s3", "aws")
STEPS = {
    *("serve.audio.decode", "serve.audio.segmentation", "serve.audio.features"),
    *(
        "serve.engine.scheduling.scheduler",
        "serve.engine.fallback",
        "serve.transcript.events",
        "serve.transcript.formats",
    ),
}
MOST_ENTRIES = 14
"""Files and packages that a reader finds in one room, its `__init__.py` aside."""
OWN_OF_AUDIO = {"serve.audio", "serve.errors", "serve.options"}
OWN_OF_TRANSCRIPT = {"serve.transcript", "serve.audio", "serve.engine", "serve.errors", "serve.options"}
"""Segments are placed from hypotheses and windows: their data types, and the names of languages."""


@dataclass(frozen=True)
class Import:
    """One imported module or name."""

    importer: str
    """Dotted name of the module that imports."""
    module: str
    """Dotted name of the imported module, relative imports resolved."""
    name: str
    """What is taken from it; empty for `import module`."""
    line: int

    @property
    def package(self) -> str:
        """Top-level package of the imported module."""
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.module}{'.' * bool(self.name)}{self.name}"


def sources(*folders: str) -> list[Path]:
    """Return every Python file below these folders of the checkout."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    """Return the dotted name under which a file of the checkout is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path, source: str | None = None) -> Iterator[Import]:
    """Yield each import of a file, those inside functions and `TYPE_CHECKING` blocks included."""
    importer = module_name(path)
    package = importer if path.stem == "__init__" else importer.rpartition(".")[0]
    for node in ast.walk(ast.parse(source if source is not None else path.read_text(), path)):
        match node:
            case ast.Import(names=aliases):
                for alias in aliases:
                    yield Import(importer, alias.name, "", node.lineno)
            case ast.ImportFrom(module=module, names=aliases, level=level):
                parents = package.split(".")[: package.count(".") + 2 - level] if level else []
                for alias in aliases:
                    yield Import(
                        importer, ".".join([*parents, *filter(None, [module])]), alias.name, node.lineno
                    )
            case ast.Call(
                func=ast.Name(id=function) | ast.Attribute(attr=function),
                args=[ast.Constant(value=str(module)), *_],
            ):
                if function in ("import_module", "__import__"):
                    yield Import(importer, module, "", node.lineno)


@cache
def imports_of_file(path: Path) -> list[Import]:
    """Return each import of a file."""
    return list(imports_of(path))


def imports(*folders: str) -> list[Import]:
    """Return each import of each file below these folders."""
    return [found for path in sources(*folders) for found in imports_of_file(path)]


def lies_in(module: str, *packages: str) -> bool:
    """Tell whether a module is one of these packages or below one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize(
    "statement",
    [
        "import train.run",
        "from train import run",
        "def f():\n    from ..train.data import text",
        "__import__('train')",
    ],
)
def test_every_way_to_write_an_import_is_seen(statement):
    assert [each.package for each in imports_of(ROOT / "serve" / "pipeline.py", statement)] == ["train"]


def test_serving_never_imports_training():
    assert [str(each) for each in imports("serve") if each.package == "train"] == []


def test_neither_package_imports_the_tests():
    assert [str(each) for each in imports("serve", "train") if each.package == "tests"] == []


def test_only_the_http_edge_and_the_command_line_know_the_web_framework():
    strays = [each for each in imports("serve", "train") if each.package in WEB]
    assert [str(each) for each in strays if not lies_in(each.importer, "serve.http", "serve.__main__")] == []


def test_only_the_engine_knows_a_model_runtime():
    strays = [
        each
        for each in imports("serve")
        if each.package in RUNTIMES - RUNTIMES_OUTSIDE_THE_ENGINE.get(each.importer, set())
    ]
    assert [str(each) for each in strays if not lies_in(each.importer, "serve.engine")] == []


def test_every_exception_to_the_runtime_rule_is_still_needed():
    used = {(each.importer, each.package) for each in imports("serve")}
    for module, packages in RUNTIMES_OUTSIDE_THE_ENGINE.items():
        assert any((module, package) in used for package in packages), module


def test_only_one_module_knows_ray():
    strays = {each.importer for each in imports("serve", "train") if each.package == "ray"}
    assert strays == {"serve.transcribe.batch.on_ray"}


def test_the_engine_knows_no_step_of_the_pipeline_and_no_http():
    strays = [
        each for each in imports("serve/engine") if lies_in(each.module, "serve.http", "serve.pipeline")
    ]
    assert [str(each) for each in strays] == []


def test_steps_share_constants_and_types_but_never_call_one_another():
    strays = [
        each
        for each in imports("serve")
        if each.importer in STEPS and each.module in STEPS - {each.importer}
        if not each.name[:1].isupper()
    ]
    assert [str(each) for each in strays] == []


@pytest.mark.parametrize(
    ("room", "allowed"), [("serve.audio", OWN_OF_AUDIO), ("serve.transcript", OWN_OF_TRANSCRIPT)]
)
def test_sound_and_transcripts_know_little_of_ours(room, allowed):
    strays = [
        each
        for each in imports(room.replace(".", "/"))
        if each.package in {"serve", "train"} and not lies_in(each.module, *allowed)
    ]
    assert [str(each) for each in strays] == []


@pytest.mark.parametrize("package", ["serve", "train"])
def test_rooms_form_no_circle(package):
    arrows: dict[str, set[str]] = {}
    for each in imports(package):
        room, other = (".".join(name.split(".")[:2]) for name in (each.importer, each.module))
        if each.package == package and each.module == package:  # `from serve import errors`
            other = f"{package}.{each.name}"
        if each.package == package and room != other:
            arrows.setdefault(room, set()).add(other)
    graphlib.TopologicalSorter(arrows).prepare()  # raises CycleError, which names the circle


def test_no_room_is_crowded():
    rooms = {path.parent for path in sources("serve", "train")}
    crowded = {
        str(room.relative_to(ROOT)): len(entries)
        for room in rooms
        if len(entries := [path for path in room.iterdir() if not path.name.startswith("__")]) > MOST_ENTRIES
    }
    assert crowded == {}


def test_every_room_says_what_it_is_for():
    rooms = {path.parent for path in sources("serve", "train")}
    silent = [
        str(room) for room in rooms if not ast.get_docstring(ast.parse((room / "__init__.py").read_text()))
    ]
    assert silent == []


def test_nothing_reads_the_environment_when_it_is_imported():
    strays = []
    for path in sources("serve", "train"):
        nodes: list[ast.AST] = [ast.parse(path.read_text())]
        while nodes:
            node = nodes.pop()
            if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv"}:
                strays.append(f"{module_name(path)}:{node.lineno}")
            if isinstance(
                node, ast.FunctionDef | ast.AsyncFunctionDef
            ):  # its body runs later, its defaults do not
                nodes.extend([*node.decorator_list, node.args])
            elif not (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)):
                nodes.extend(ast.iter_child_nodes(node))
    assert strays == []


def test_tests_are_no_packages_so_that_they_shadow_none():
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("serve", ("aws", "capacity", "microphone", "otel", "ray", "s3")),
        ("train", (*TRAIN_EXTRAS, "mlflow")),
        ("tests", (*TRAIN_EXTRAS, "otel", "capacity", "test")),
        ("bench", ("train", "capacity", "test", "bench")),
    ],
)
def test_every_imported_distribution_is_declared(folder, extras):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] + [r for e in extras for r in project["optional-dependencies"][e]]
    declared = {distribution_key(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}
    optional = {  # may be absent
        "mlflow": ["mlflow-skinny"],
        "opentelemetry": ["opentelemetry-sdk"],
        "whisper": ["openai-whisper"],
    }
    distributions = {**optional, **installed()}
    undeclared = {
        each.package
        for each in imports(folder)
        if each.package not in sys.stdlib_module_names | {"bench", "serve", "train", folder}
        if not declared & {distribution_key(name) for name in distributions.get(each.package, [each.package])}
    }
    assert undeclared == set()


@cache
def installed() -> Mapping[str, list[str]]:
    """Return the distributions that each importable package belongs to."""
    return packages_distributions()


def distribution_key(name: str) -> str:
    """Return a distribution's name as an index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
