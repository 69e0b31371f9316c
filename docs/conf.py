"""Sphinx: the documentation site, built by `make docs`; it loads nothing from the network."""

project = "landuse"
copyright = "the landuse authors"  # a name Sphinx reads
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "landuse"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_sphinx = False
nitpicky = True
