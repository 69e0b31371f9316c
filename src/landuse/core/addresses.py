"""Redaction of addresses: the single place that decides which part of one is public.

Logins, queries and fragments never are.
"""

import os
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from functools import lru_cache
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from landuse.core.paths import PARAMS

REDACTED = "…"
ENCODING_HINT = "in a login write @ : / ? # [ ] as %40 %3A %2F %3F %23 %5B %5D, in a path @ as %40"
CONFIG_FILES = (PARAMS, Path(".dvc/config"), Path(".dvc/config.local"))
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>`]+")
HOST = r"(\[[\w:.%]+\]|[^\s:;,&=@\[\]]*)(:\d*)?"
HOSTS = re.compile(f"{HOST}(,{HOST})*")  # PostgreSQL URLs may list several
MALFORMED = re.compile(  # has no :// but is not a path either
    r":[^@]*@|^\s*\w+:[/\\]|^\s*//|[?#&;][\w.~-]+=|^\s*[\w-]+(\.[\w-]+)+/.*[?#]"
)
PUNCTUATION = ".,:;!?)]}|"
QUERY = re.compile(r"[?#;&]|%3[Ff]")
FILE_SCHEME = re.compile(r"(sqlite(\+\w+)?|file)")  # with a third slash, the rest is a local path
SECRET_KEY = re.compile(r"pass|pwd|token|secret|key|sig|auth|cred|code|connection_string", re.IGNORECASE)
SECRET_VARIABLE = re.compile(r"(^PG|^|_)(PASSWORD|PASSWD|TOKEN|SECRET|API_KEY|ACCESS_KEY|AUTH_STRING)(_|$)")
SECRET_NAME = re.compile(rf"{SECRET_VARIABLE.pattern}|_proxy$", re.IGNORECASE)
DELIMITERS = re.compile(r"[@:/?#\[\]&;\s]+|%[0-9A-Fa-f]{2}")
MIN_LENGTH = 3  # characters of a secret that is redacted
MIN_UNNAMED_LENGTH = 8  # of a value that counts as a secret whatever its name
MIN_EMBEDDED_LENGTH = 16  # of a secret that is redacted inside longer words too


def public(address: str) -> str:
    """Strip login, query and fragment from an address; reduce an ambiguous one to its scheme.

    A local path is returned unchanged.
    """
    scheme, sign, rest = address.partition("://")
    if not sign:
        return REDACTED if MALFORMED.search(address) else address
    if not SCHEME.fullmatch(scheme):
        return REDACTED
    if FILE_SCHEME.fullmatch(scheme) and rest.startswith("/"):
        return f"{scheme}://{rest.partition('?')[0]}"
    if is_ambiguous(address):
        return f"{scheme}://{REDACTED}"
    _, host, path = split_address(address)
    return f"{scheme}://{host}{QUERY.split(path)[0]}"


def is_ambiguous(address: str) -> bool:
    """Return True if programs may disagree on where the login ends or whether the address has one."""
    scheme, _, _ = address.partition("://")
    _, host, path = split_address(address)
    return not SCHEME.fullmatch(scheme) or scheme.startswith("databricks") or "@" in path or not HOSTS.fullmatch(host)


def split_address(address: str) -> tuple[str, str, str]:
    """Split an address into login, host and the rest as in RFC 3986, whatever characters it contains."""
    rest = address.partition("://")[2]
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    login, _, host = authority.rpartition("@")
    return login, host, rest[len(authority) :]


def hide_folder(text: str) -> str:
    """Reduce an absolute path to its file name, since folders of a machine are private; keep other text."""
    return PurePosixPath(text).name if text.startswith("/") else text


def public_values(content: Any) -> Any:
    """Return params, or a part of them, with every address reduced to its public part."""
    if isinstance(content, dict):
        return {key: public_value(str(key), value) for key, value in content.items()}
    if isinstance(content, list):
        return [public_values(value) for value in content]
    return public(content) if isinstance(content, str) and "://" in content else content


def public_value(key: str, value: Any) -> Any:
    """Return the public part of a value. Without ://, only a source can be a mistyped address."""
    is_source = isinstance(value, str) and key in ("source", "data.source")
    return public(value) if is_source else public_values(value)


def redact(text: str) -> str:
    """Reduce every address in a text to its public part, and remove secrets of configured addresses wherever they are.

    Libraries repeat passwords decoded, re-encoded or in pieces.
    """
    environment = tuple(item for item in os.environ.items() if "://" in item[1] or SECRET_NAME.search(item[0]))
    if secrets := secrets_pattern(environment, tuple(map(file_state, CONFIG_FILES))):
        text = secrets.sub(REDACTED, text)
    return ADDRESS.sub(lambda match: redact_match(match[0]), text) if "://" in text else text


def without_addresses(text: str) -> str:
    """Remove all addresses from a text: the address of a webhook is secret as a whole."""
    return ADDRESS.sub(REDACTED, text)


def redact_match(address: str) -> str:
    """Return the public part of an address found in a text, keeping the punctuation after it."""
    bare = address.rstrip(PUNCTUATION)
    return public(bare) + address[len(bare) :]


def file_state(path: Path) -> tuple[str, int, int]:
    """Return absolute path, modification time and size of a file; zeros if it does not exist."""
    try:
        facts = path.stat()
    except OSError:
        return str(path.absolute()), 0, 0
    return str(path.absolute()), facts.st_mtime_ns, facts.st_size


@lru_cache(maxsize=8)
def secrets_pattern(
    environment: tuple[tuple[str, str], ...], files: tuple[tuple[str, int, int], ...]
) -> re.Pattern[str] | None:
    """Compile a pattern for all spellings of the secrets in these variables and files; None if there are none."""
    secrets = {spelling for secret in configured_secrets(environment, files) for spelling in spellings(secret)}
    wanted = sorted((secret for secret in secrets if len(secret) >= MIN_LENGTH), key=len, reverse=True)
    return re.compile("|".join(map(secret_pattern, wanted))) if wanted else None


def secret_pattern(secret: str) -> str:
    """Return the pattern of a secret. A short one matches whole words only, or half of every message would go."""
    word = re.escape(secret)
    return word if len(secret) >= MIN_EMBEDDED_LENGTH else rf"(?<![^\W_]){word}(?![^\W_])"


def configured_secrets(
    environment: tuple[tuple[str, str], ...], files: tuple[tuple[str, int, int], ...]
) -> Iterator[str]:
    """Yield the secrets in the environment, the params and DVC's configuration."""
    for name, value in environment:
        if SECRET_VARIABLE.search(name) and "://" not in value and len(value) >= MIN_UNNAMED_LENGTH:
            yield value
        for address in (value, *ADDRESS.findall(value)):
            yield from address_secrets(address.strip().rstrip(PUNCTUATION))
    for name, _, size in files:
        text = Path(name).read_text(encoding="utf-8", errors="replace") if size else ""
        for key, value in config_values(text):
            yield from address_secrets(value)
            if SECRET_KEY.search(key) and Path(name).name != PARAMS.name:
                yield value


def config_values(text: str) -> Iterator[tuple[str, str]]:
    """Yield keys and values of a YAML or INI file; of a damaged one, everything on a line that may be the value."""
    import yaml

    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        yield from leaf_texts(content)
    else:
        for key, value in re.findall(r"([\w.-]+)['\"]?\s*[:=]\s*(.+)", text):
            for end in (r"\s*$", r"\s+#", r"['\"]\s*[,}]?\s*$", r"\s*[,}]"):
                yield key, re.split(end, value.lstrip("'\""))[0]


def leaf_texts(content: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the strings in a YAML document, each with its key."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from leaf_texts(value, str(name))
    elif isinstance(content, list):
        for value in content:
            yield from leaf_texts(value, key)
    elif isinstance(content, str):
        yield key, content


def address_secrets(address: str) -> Iterator[str]:
    """Yield the secret parts of an address, wherever programs may think its login ends; none for a path."""
    scheme, sign, rest = address.partition("://")
    if public(address) == address:
        return
    rest = rest if sign else address
    for at in re.finditer("@", rest):
        yield from login_secrets(rest[: at.start()], scheme)
    if SCHEME.fullmatch(scheme) and sign and "@" not in rest and is_ambiguous(address):
        profile, _, more = rest.partition(":")
        yield from (rest, profile if more else "", more.partition("/")[0])
    _, mark, query = rest.partition(match[0]) if (match := QUERY.search(rest)) else ("", "", "")
    for pair in re.split(r"[&;#]", query) if mark else ():
        key, equals, value = pair.partition("=")
        yield pair if len(pair) >= MIN_UNNAMED_LENGTH else ""
        yield value if SECRET_KEY.search(key) or len(value) >= MIN_UNNAMED_LENGTH else ""


def login_secrets(login: str, scheme: str) -> Iterator[str]:
    """Yield login, password, pieces of the password, and their Base64 form in requests; a lone user may be a token."""
    user, colon, password = login.partition(":")
    if colon:
        plain = unquote(password)
        cuts = DELIMITERS.finditer(plain)
        ends = [end for cut in cuts for end in (plain[: cut.start()], plain[cut.end() :])]
        yield from (password, login, *ends, *DELIMITERS.split(password), *DELIMITERS.split(plain))
    elif scheme.startswith("http") and len(user) >= MIN_UNNAMED_LENGTH:
        yield user
    for credentials in (login, unquote(login), f"{unquote(user)}:{unquote(password)}"):
        yield from (encode(credentials.encode()).decode() for encode in (b64encode, urlsafe_b64encode))


def spellings(secret: str) -> Iterator[str]:
    """Yield the spellings of a secret: percent-encoded, decoded, and as programs quote it."""
    plain = unquote(secret)
    yield from (secret, plain, unquote_plus(secret), quote(plain), quote(plain, safe=""), quote_plus(plain))
    yield from (escape(plain), repr(plain)[1:-1], plain.encode("unicode_escape").decode())
