"""The public part of an address, and redaction of its secret parts in text."""

import os
from base64 import b64encode
from pathlib import Path

import pytest

from landuse.core.addresses import public, public_values, redact, without_addresses
from landuse.core.errors import LanduseError, one_line

PUBLIC = {
    "https://user:pw@host/a.zip?token=x#part": "https://host/a.zip",
    "https://token@host:8443/a.zip": "https://host:8443/a.zip",
    "https://user:p%40ss@host/a.zip": "https://host/a.zip",
    "https://user:p@ss@host/a.zip": "https://host/a.zip",
    "https://user:p[ss]@host/a.zip": "https://host/a.zip",
    "https://host/my set.zip?token=x": "https://host/my set.zip",
    "https://host/a.zip%3Ftoken=x": "https://host/a.zip",
    "https://host/a.zip;token=x": "https://host/a.zip",
    "http://[::1]:5000/a.zip?x": "http://[::1]:5000/a.zip",
    "postgresql+psycopg2://u:p@h/db?password=x": "postgresql+psycopg2://h/db",
    "postgresql://u:p@one:5432,two:5433/db": "postgresql://one:5432,two:5433/db",
    "mysql://u:p@h:3306/db": "mysql://h:3306/db",
    "sqlite:////home/me@work/a#b/mlflow.db?mode=ro": "sqlite:////home/me@work/a#b/mlflow.db",
    "sqlite+pysqlcipher://:word@/kept.db": "sqlite+pysqlcipher:///kept.db",
    "s3://bucket/key": "s3://bucket/key",
    # of an ambiguous address, only the scheme
    "https://user:pa/ss@host/a.zip": "https://…",
    "https://user:12/34@host/a.zip": "https://…",
    "https://user:pa#ss@host/a.zip": "https://…",
    "https://user:pa?ss@host/a.zip": "https://…",
    "https://user:pa\\ss@host/a.zip": "https://…",
    "https:///user:pw@host/a.zip": "https://…",
    "https://host/a.zip?mail=me@x&token=y": "https://…",
    "https://user:pw": "https://…",
    "mysql://u:p/w@h/db": "mysql://…",
    "mssql://h;password=x": "mssql://…",
    "databricks://profile:token": "databricks://…",
    "databricks-uc://token": "databricks-uc://…",
    "user:pw@https://host/a.zip": "…",
    " https://user:pw@host": "…",
    # mistyped addresses
    "https:/user:pw@host/a.zip": "…",
    "//user:pw@host/a.zip": "…",
    "user:pw@host:/a.zip": "…",
    "host/a.zip?token=x": "…",
    "host.org/a.zip?s3cret": "…",
    # paths
    "sample": "sample",
    "/data/set #2 @home/a.zip": "/data/set #2 @home/a.zip",
}


@pytest.mark.parametrize("address", PUBLIC)
def test_login_query_and_fragment_of_an_address_are_not_public(address: str) -> None:
    assert public(address) == PUBLIC[address]
    assert public(public(address)) == public(address)


def test_params_are_recorded_with_public_addresses_only() -> None:
    params = {"data": {"source": "user:pw@host:a.zip", "checksum": None}, "more": [{"x": "http://u:p@h/?q"}, 3, "a#b"]}
    assert public_values(params) == {"data": {"source": "…", "checksum": None}, "more": [{"x": "http://h/"}, 3, "a#b"]}
    assert public_values({"data.source": "http://u:p@h/a?b=c"}) == {"data.source": "http://h/a"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project whose store has a password, whose source has a token, and whose DVC remote has a key."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:pa%40ss%2Fword%5B1@host/db?sslpassword=of-the-key")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token-of-mlflow")
    monkeypatch.setenv("PGPASSWORD", "of-the-search")
    Path("params.yaml").write_text('data: {source: "https://you:s%20ecret#1@host/a?sig=AbC+d%2Fe", checksum: null}\n')
    Path(".dvc").mkdir()
    Path(".dvc/config.local").write_text(
        "['remote \"r\"']\n    url = https://u:remote-pw@host/d\n    password = another\n"
    )


REDACTIONS = {
    'could not translate host name "ss/word[1@host"': 'could not translate host name "…@host"',
    "'me:pa@ss/word[1' failed": "'…' failed",
    "password pa@ss/word[1": "password …",
    "password pa%40ss%2Fword%5B1, pa%40ss/word%5B1": "password …, …",
    f"Basic {b64encode(b'me:pa@ss/word[1').decode()}": "Basic …",
    "sslpassword=of-the-key, of-the-key": "…, …",
    "Bearer token-of-mlflow": "Bearer …",
    "password of-the-search": "password …",
    "s ecret#1, s+ecret%231": "…, …",
    "AbC+d/e, AbC d/e, AbC%2Bd%2Fe": "…, …, …",
    "remote-pw another": "… …",
    "https://who:ever@else/a?b=c: no": "https://else/a: no",
    "(from http://127.0.0.1:5000), then": "(from http://127.0.0.1:5000), then",
    "nothing to hide from me, you or user": "nothing to hide from me, you or user",
}


@pytest.mark.parametrize("text", REDACTIONS)
def test_a_secret_of_a_configured_address_is_redacted_in_every_spelling(store: None, text: str) -> None:
    assert redact(text) == REDACTIONS[text]
    assert str(LanduseError(text)) == REDACTIONS[text]


@pytest.mark.parametrize(
    "params",
    [
        "data:\n  source: https://u:pa ss@h: x\n",
        "data: {source: 'https://u:pa ss@h', \n",
        '"source": "https://u:pa ss@h"  # mine\n  x: [',
    ],
)
def test_a_secret_in_damaged_params_is_redacted(store: None, params: str) -> None:
    Path("params.yaml").write_text(params)
    assert redact("it says pa ss") == "it says …"


def test_a_change_of_the_params_takes_effect_at_once(store: None) -> None:
    assert redact("brand-new") == "brand-new"
    Path("params.yaml").write_text("data:\n  source: ftp://u:brand-new@host/a-longer-file.zip\n")
    assert redact("brand-new") == "…"


def test_a_secret_is_redacted_before_a_text_is_shortened(store: None) -> None:
    assert one_line("it is pa@ss/word[1", 10) == "it is …"


def test_a_setting_that_is_not_secret_redacts_nothing(store: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("SOME_TOKEN", "true")
    monkeypatch.setenv("SOME_URL", "see https://debuginfod.example.org and others")
    text = "false, true, see debuginfod.example.org and others"
    assert redact(text) == text and os.environ["SOME_TOKEN"] not in redact("truest")[4:]


def test_the_address_of_a_webhook_is_removed_entirely() -> None:
    assert without_addresses("404 for https://hooks.example.org/T0/B0/key") == "404 for …"
