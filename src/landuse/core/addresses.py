"""Addresses: the one place that decides which part of them is public. Logins, queries and fragments never are."""

import os
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from landuse.core.paths import PARAMS

HIDDEN = "…"
ENCODED = "in a login write @ : / ? # [ ] as %40 %3A %2F %3F %23 %5B %5D, in a path @ as %40"
CONFIGURED = (PARAMS, Path(".dvc/config"), Path(".dvc/config.local"))
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>`]+")
HOST = r"(\[[\w:.%]+\]|[^\s:;,&=@\[\]]*)(:\d*)?"
HOSTS = re.compile(f"{HOST}(,{HOST})*")  # PostgreSQL takes several
MISTYPED = re.compile(r":[^@]*@|^\s*\w+:[/\\]|^\s*//|[?#&;][\w.~-]+=")  # what lacks :// and is no path all the same
PUNCTUATION = ".,:;!?)]}|"
QUERY = re.compile(r"[?#;&]|%3[Ff]")
OF_FILES = re.compile(r"(sqlite(\+\w+)?|file)")  # a third slash begins a path on this machine
SENSITIVE = re.compile(r"pass|pwd|token|secret|key|sig|auth|cred|code|connection_string", re.IGNORECASE)
SENSITIVE_VARIABLE = re.compile(r"(^|_)(PASSWORD|PASSWD|TOKEN|SECRET|API_KEY|ACCESS_KEY|AUTH_STRING)(_|$)")
TELLING_NAME = re.compile(rf"{SENSITIVE_VARIABLE.pattern}|_proxy$", re.IGNORECASE)
DELIMITERS = re.compile(r"[@:/?#\[\]&;\s]+|%[0-9A-Fa-f]{2}")
SHORTEST, TELLING, EMBEDDED = 3, 8, 16  # letters of a secret; of one under any name; of one found within words too


def public(address: str) -> str:
    """Reduce an address to what may be shown: no login, query or fragment; of an ambiguous one the scheme alone.

    A path on this machine is returned as it is.
    """
    scheme, sign, rest = address.partition("://")
    if not sign:
        return HIDDEN if MISTYPED.search(address) else address
    if not SCHEME.fullmatch(scheme):
        return HIDDEN
    if OF_FILES.fullmatch(scheme) and rest.startswith("/"):
        return f"{scheme}://{rest.partition('?')[0]}"
    if is_ambiguous(address):
        return f"{scheme}://{HIDDEN}"
    _, host, path = parts(address)
    return f"{scheme}://{host}{QUERY.split(path)[0]}"


def is_ambiguous(address: str) -> bool:
    """Whether programs may disagree on where a login ends, or only its reader knows whether there is one."""
    scheme, _, _ = address.partition("://")
    _, host, path = parts(address)
    return not SCHEME.fullmatch(scheme) or scheme.startswith("databricks") or "@" in path or not HOSTS.fullmatch(host)


def parts(address: str) -> tuple[str, str, str]:
    """Login, host and all that follows of an address, as RFC 3986 has it, whatever characters there are."""
    authority, path = re.fullmatch(r"([^/?#\\]*)(.*)", address.partition("://")[2], re.DOTALL).groups()
    login, _, host = authority.rpartition("@")
    return login, host, path


def public_values(content: Any) -> Any:
    """Params or a part of them with every address in them as it may be recorded."""
    if isinstance(content, dict):
        return {key: public_value(str(key), value) for key, value in content.items()}
    if isinstance(content, list):
        return [public_values(value) for value in content]
    return public(content) if isinstance(content, str) and "://" in content else content


def public_value(key: str, value: Any) -> Any:
    """One value: a source may be a mistyped address, other texts are none without ://."""
    is_source = isinstance(value, str) and key in ("source", "data.source")
    return public(value) if is_source else public_values(value)


def redacted(text: str) -> str:
    """A text in which no address says more than `public` tells, and no secret part of a configured one stands alone.

    Libraries repeat passwords decoded, encoded anew or in pieces.
    """
    environment = tuple(item for item in os.environ.items() if "://" in item[1] or TELLING_NAME.search(item[0]))
    if secrets := pattern_of(environment, tuple(map(state, CONFIGURED))):
        text = secrets.sub(HIDDEN, text)
    return ADDRESS.sub(lambda found: shown(found[0]), text) if "://" in text else text


def without_addresses(text: str) -> str:
    """A text in which no address is left at all: that of a webhook is a secret as a whole."""
    return ADDRESS.sub(HIDDEN, text)


def shown(address: str) -> str:
    """An address found in a text, with the punctuation that follows it."""
    bare = address.rstrip(PUNCTUATION)
    return public(bare) + address[len(bare) :]


def state(path: Path) -> tuple[str, int, int]:
    """A file as it is now: its path from the root on, time of change and size; zeros where there is none."""
    try:
        facts = path.stat()
    except OSError:
        return str(path.absolute()), 0, 0
    return str(path.absolute()), facts.st_mtime_ns, facts.st_size


@lru_cache(maxsize=8)
def pattern_of(environment: tuple[tuple[str, str], ...], files: tuple[tuple[str, int, int], ...]) -> re.Pattern | None:
    """A pattern for the secrets of these variables and files in every form; None where there are none."""
    secrets = {form for secret in configured(environment, files) for form in forms(secret)}
    wanted = sorted((secret for secret in secrets if len(secret) >= SHORTEST), key=len, reverse=True)
    return re.compile("|".join(map(bounded, wanted))) if wanted else None


def bounded(secret: str) -> str:
    """The pattern of a secret: a short one counts as a word of its own, or half of every message would be hidden."""
    word = re.escape(secret)
    return word if len(secret) >= EMBEDDED else rf"(?<![^\W_]){word}(?![^\W_])"


def configured(environment: tuple[tuple[str, str], ...], files: tuple[tuple[str, int, int], ...]) -> Iterator[str]:
    """The secrets that environment, params and DVC's configuration hold."""
    for name, value in environment:
        if SENSITIVE_VARIABLE.search(name) and "://" not in value and len(value) >= TELLING:
            yield value
        for address in (value, *ADDRESS.findall(value)):
            yield from secrets_of(address.strip().rstrip(PUNCTUATION))
    for name, _, size in files:
        text = Path(name).read_text(encoding="utf-8", errors="replace") if size else ""
        for key, value in values_in(text):
            yield from secrets_of(value)
            if SENSITIVE.search(key) and Path(name).name != PARAMS.name:
                yield value


def values_in(text: str) -> Iterator[tuple[str, str]]:
    """Keys and values of a YAML or INI file, also where it is damaged: of a line all that may be the value."""
    import yaml

    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        yield from leaves(content)
    else:
        for key, value in re.findall(r"([\w.-]+)['\"]?\s*[:=]\s*(.+)", text):
            for end in (r"\s*$", r"\s+#", r"['\"]\s*[,}]?\s*$", r"\s*[,}]"):
                yield key, re.split(end, value.lstrip("'\""))[0]


def leaves(content: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The texts of a YAML document, each with its key."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from leaves(value, str(name))
    elif isinstance(content, list):
        for value in content:
            yield from leaves(value, key)
    elif isinstance(content, str):
        yield key, content


def secrets_of(address: str) -> Iterator[str]:
    """The secret parts of an address, wherever programs may think that its login ends; of a path none."""
    scheme, sign, rest = address.partition("://")
    if public(address) == address:
        return
    rest = rest if sign else address
    for at in re.finditer("@", rest):
        yield from secrets_of_login(rest[: at.start()], scheme)
    if SCHEME.fullmatch(scheme) and sign and "@" not in rest and is_ambiguous(address):
        profile, _, more = rest.partition(":")
        yield from (rest, profile if more else "", more.partition("/")[0])
    _, mark, query = rest.partition(found[0]) if (found := QUERY.search(rest)) else ("", "", "")
    for pair in re.split(r"[&;#]", query) if mark else ():
        key, equals, value = pair.partition("=")
        yield pair if len(pair) >= TELLING else ""
        yield value if SENSITIVE.search(key) or len(value) >= TELLING else ""


def secrets_of_login(login: str, scheme: str) -> Iterator[str]:
    """Login and password, pieces of the latter, and what becomes of both in a request; a name alone may be a token."""
    user, colon, password = login.partition(":")
    if colon:
        plain = unquote(password)
        ends = [end for found in DELIMITERS.finditer(plain) for end in (plain[: found.start()], plain[found.end() :])]
        yield from (password, login, *ends, *DELIMITERS.split(password), *DELIMITERS.split(plain))
    elif scheme.startswith("http") and len(user) >= TELLING:
        yield user
    for sent in (login, unquote(login), f"{unquote(user)}:{unquote(password)}"):
        yield from (encode(sent.encode()).decode() for encode in (b64encode, urlsafe_b64encode))


def forms(secret: str) -> Iterator[str]:
    """A secret as it may be written: encoded, decoded, and as programs quote it."""
    plain = unquote(secret)
    yield from (secret, plain, unquote_plus(secret), quote(plain), quote(plain, safe=""), quote_plus(plain))
    yield from (escape(plain), repr(plain)[1:-1], plain.encode("unicode_escape").decode())
