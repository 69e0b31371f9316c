"""Known properties of the real UC Merced images are detected."""

import json
import os
from itertools import repeat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from landuse.core.paths import DATA, FEATURES, MANIFEST, SPLITS
from landuse.ingest.sources import find_source
from landuse.ml.features import METADATA, manifest_digest
from landuse.ml.shards import write_shard
from landuse.params import DataParams, load_params
from landuse.split import split
from landuse.validate import validate

ROOT = Path(__file__).parents[2]
SOURCE = os.environ.get("LANDUSE_SOURCE", "")


@pytest.mark.skipif(not SOURCE, reason="LANDUSE_SOURCE names no archive of the real images")
def test_ucmerced_passes_with_warnings_and_its_duplicates_stay_together(project: Path) -> None:
    params = load_params(ROOT / "presets" / "ucmerced.yaml")
    find_source(DataParams(source=SOURCE, checksum=None)).fill(DATA)
    verdict = validate(params.validate)
    assert verdict.success
    warned = {finding.name: finding for finding in verdict.expectations if not finding.success}
    assert {"size", "duplicates"} <= set(warned) and warned["size"].unexpected == 44
    contents = tuple(pd.read_parquet(MANIFEST)["sha256"].unique())
    nothing = repeat((np.zeros(1, np.float32), np.zeros((1, 1), np.float32)))
    write_shard(FEATURES, "key", contents, nothing)  # leaves only file digests and image hashes
    METADATA.write_text(json.dumps({"manifest_sha256": manifest_digest()}))
    split(params.split)
    rows = pd.read_csv(SPLITS).assign(name=lambda rows: rows["path"].str.extract(r"(\w+)\.\w+$")).set_index("name")
    assert rows.loc["airplane01", "group"] == rows.loc["airplane02", "group"]
    assert rows.loc["airplane01", "subset"] == rows.loc["airplane02", "subset"]
    assert (rows.groupby("label")["subset"].nunique() == 3).all()
