"""The code that runs is that of the folder in use, wherever `landuse` was installed from."""

import os
import sys
from pathlib import Path

from landuse.core.errors import LanduseError


def run_own_code() -> None:
    """Begin anew with the code in `src/` of this folder, where another copy of it runs.

    So it is in a copy of the project, as DVC makes one for an experiment and git for a branch: what comes of it is
    recorded as the result of the code that lies there. Raises LanduseError where Python does not let it go first.
    """
    own = Path("src", "landuse")
    if not (own / "cli.py").exists() or own.samefile(Path(__file__).parents[1]):
        return
    source, path = str(own.parent.absolute()), os.environ.get("PYTHONPATH", "")
    if path.split(os.pathsep)[0] == source:
        raise LanduseError(f"{own} is not the code that runs: Python was told to ignore PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (source, path)))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
