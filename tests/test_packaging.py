"""What is built carries the schemas, the sample, the types and the command."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata, resources
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCHEMAS = {"batch.capnp", "frame.capnp", "log.capnp"}
SAMPLE_BYTES_MAX = 300_000


def test_what_is_installed_finds_schemas_sample_and_command():
    assert {p.name for p in resources.files("meshmq.schemas").iterdir()} >= SCHEMAS
    sample = resources.files("meshmq.data").joinpath("flights-sample.csv.gz").read_bytes()
    assert 10_000 < len(sample) <= SAMPLE_BYTES_MAX
    scripts = metadata.entry_points(group="console_scripts", name="meshmq")
    assert [s.value for s in scripts] == ["meshmq.cli:main"]


def test_every_package_is_named_in_setup_cfg():
    named = (ROOT / "setup.cfg").read_text()
    for found in (ROOT / "meshmq").rglob("__init__.py"):
        package = ".".join(found.parent.relative_to(ROOT).parts)
        assert f"\n    {package}\n" in named, f"{package} is not in setup.cfg"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the checkout, so that a build leaves nothing in it."""
    pytest.importorskip("setuptools")
    copy = tmp_path_factory.mktemp("source") / "meshmq"
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy


def build(source, what, folder):
    code = (
        "import sys\nfrom setuptools import build_meta\n"
        f"print(build_meta.build_{what}(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_a_wheel_carries_it_all(source, tmp_path):
    wheel = zipfile.ZipFile(build(source, "wheel", tmp_path))
    names = set(wheel.namelist())
    assert {f"meshmq/schemas/{name}" for name in SCHEMAS} <= names
    assert {"meshmq/data/flights-sample.csv.gz", "meshmq/py.typed"} <= names
    assert not [n for n in names if n.startswith(("tests/", "schemas/", "examples/"))]
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "meshmq").rglob("*.py")}
    assert sources <= names


@pytest.mark.slow
def test_a_wheel_works_where_nothing_else_is(source, tmp_path):
    place = tmp_path / "place"
    zipfile.ZipFile(build(source, "wheel", tmp_path)).extractall(place)
    code = "import meshmq.codec, meshmq.schema; print(meshmq.__file__, meshmq.schema._directory())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(place)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(place / "meshmq/__init__.py"), str(place / "meshmq/schemas")]


@pytest.mark.slow
def test_a_source_archive_carries_it_all(source, tmp_path):
    with tarfile.open(build(source, "sdist", tmp_path)) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {f"schemas/{name}" for name in SCHEMAS} <= names
    assert {"README.md", "LICENSE", "pyproject.toml", "setup.cfg"} <= names
    assert "meshmq/data/flights-sample.csv.gz" in names
