"""Run the code of the current project folder, wherever `landuse` was installed from."""

import os
import sys
from pathlib import Path

from landuse.core.errors import LanduseError


def reexec_from_working_tree() -> None:
    """Restart the program with the code of the current folder, `src/` and `pipelines/`, if another copy is running.

    This happens in a copy of the project, such as a DVC experiment or a git worktree: results are recorded as those of
    the code in that folder. Raises LanduseError if Python ignores PYTHONPATH, so that the code cannot take precedence.
    """
    package = Path("src", "landuse")
    if not (package / "cli.py").exists() or package.samefile(Path(__file__).parents[1]):
        return
    source, path = str(package.parent.absolute()), os.environ.get("PYTHONPATH", "")
    if path.split(os.pathsep)[0] == source:
        raise LanduseError(f"{package} is not the code that runs: Python was told to ignore PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (source, str(Path.cwd()), path)))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
