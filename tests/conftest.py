"""What the tests share: an empty project to work in."""

import subprocess
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh clone before anything ran, and the folder in use: git and DVC set up, the sample preset, no data."""
    folder = tmp_path / "project"
    (folder / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore"):
        copy(ROOT / name, folder / name)
    copy(ROOT / "presets" / "sample.yaml", folder / "params.yaml")
    for name in ("gx", "weights"):
        copytree(ROOT / name, folder / name, ignore=ignore_patterns("uncommitted", "*.h5"))
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc-site-cache"))
    monkeypatch.chdir(folder)
    return folder
