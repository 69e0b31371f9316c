"""The page of `dvc plots`, with the scripts of Vega in it; the one that DVC comes with loads them from the web.

`make` runs this module once the packages are installed: `python -m landuse.project.plots_page`.
"""

from importlib.resources import files
from pathlib import Path

from configobj import ConfigObj
from dvc.config import Config

from landuse.core.files import write_atomically
from landuse.core.paths import DVC_LOCAL, PLOTS_PAGE

TEMPLATE = Path(__file__).with_suffix(".html")
PACKAGE = "js_lib_vega_embed"
SCRIPTS = ("vega5.js", "vega-lite5.js", "vega-embed6.js")  # each needs those before it


def write_page() -> None:
    """Write the template that DVC fills, with the scripts where DVC would put addresses."""
    folder = files(PACKAGE) / "static" / PACKAGE
    scripts = "\n".join(f"<script>{(folder / name).read_text(encoding='utf-8')}</script>" for name in SCRIPTS)
    write_atomically(PLOTS_PAGE, TEMPLATE.read_text(encoding="utf-8").replace("{scripts}", scripts))


def use_page() -> None:
    """Set `plots.html_template` for this machine, unless the user has a template already.

    Other clones and copies of the project lack the file, so that it is not set for them. The settings are not written
    by DVC, which writes ASCII only, while those of a user may contain other characters.
    """
    if "html_template" in Config(dvc_dir=str(DVC_LOCAL.parent.absolute()))["plots"]:
        return
    local = ConfigObj(str(DVC_LOCAL), interpolation=False, encoding="utf-8")
    local["plots"] = local.get("plots", {}) | {"html_template": PLOTS_PAGE.name}
    local.write()


if __name__ == "__main__":
    write_page()
    use_page()
