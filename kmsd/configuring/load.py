"""Reading a configuration: defaults < TOML file < `KMS_CONNECTOR_*` variables, strictly (guarantee PR5).

Every value remembers where it came from. All mistakes of a configuration are reported together, each in one line that
names the key, where it stands, what was found (without secrets, PR4) and what is allowed.
"""

import json
import os
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import attrs

from kmsd import redact
from kmsd.config import HTTP, INPUTS, NOWHERE, ROLES, Contract, Key, Settings, default_of, keys_of
from kmsd.configuring.agreement import contradictions
from kmsd.configuring.database_url import with_credentials
from kmsd.configuring.foreign_keys import MISNAMED, OBSOLETE
from kmsd.configuring.secret_file import read_secret
from kmsd.configuring.values import BadValue, ListOf, Secret, Table, Tables, Url, Value

PREFIX = "KMS_CONNECTOR_"
"""Every variable begins with it; `__` goes into a table."""

EXIT_STATUS = 78
"""EX_CONFIG of sysexits.h."""

DEFAULT = "default"
"""Origin of a value that nobody set."""


class ConfigError(Exception):
    """A configuration that cannot be used. `problems` and `notices` are lines for the operator; no secret in them."""

    exit_status = EXIT_STATUS

    def __init__(self, problems: Sequence[str], notices: Sequence[str] = ()) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
        self.notices = tuple(notices)


@attrs.frozen
class Loaded:
    """Settings, with where each value came from.

    `origins` has, for every key set by somebody, its dotted path and the file or variable; `notices` are lines that an
    operator should read although the configuration can be used.
    """

    settings: Settings
    origins: Mapping[str, str]
    notices: Sequence[str]

    def origin(self, path: str) -> str:
        """File or variables that set the key at `path`, or DEFAULT."""
        return self.origins.get(path, DEFAULT)


FOREIGN_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PGPASSWORD")
"""Variables that libraries read for themselves, and whose values nothing may print either."""


def load(
    path: str | None, environment: Mapping[str, str] = os.environ, *, needed: Collection[str] | None = None
) -> Loaded:
    """Read the file at `path` (None: no file) and the variables of `environment`. Raises ConfigError.

    `needed` names the keys that must be there; by default those that the configured roles need. Secrets found are made
    known to `redact.KNOWN`.
    """
    reading = _Reading()
    tree = _with_variables(reading, _from_file(reading, path), environment)
    _expand_gateway_url(reading, tree)
    password_file = tree.pop("database_password_file", None)
    settings: Settings = reading.object(Settings, tree, "")
    settings = _with_database_credentials(reading, settings, password_file, environment)
    reading.problems += _missing(settings, needed, reading.failed)
    if not reading.problems:
        reading.problems += contradictions(settings, environment, wants_wallet=needed is None)
    reading.notices += _open_file(path, reading.origins)
    notices = [redact.KNOWN(notice) for notice in reading.notices]
    if reading.problems:
        raise ConfigError([redact.KNOWN(problem) for problem in reading.problems], notices)
    redact.KNOWN.add(*secrets_of(settings), *(environment.get(name, "") for name in FOREIGN_SECRETS))
    return Loaded(settings, reading.origins, notices)


def variable(path: str) -> str:
    """The variable that sets the key at the dotted `path`."""
    return PREFIX + path.upper().replace(".", "__")


def secrets_of(table: Any) -> Iterable[str]:
    """Every secret inside Settings or one of its tables."""
    for name, key in keys_of(type(table)).items():
        value = getattr(table, name)
        if value is None:
            continue
        if isinstance(key.value, Table):
            yield from secrets_of(value)
        elif isinstance(key.value, Tables):
            for item in value:
                yield from secrets_of(item)
        else:
            yield from key.value.secrets(value)


@attrs.frozen
class _Given:
    """What a source says about one key, and which source."""

    raw: Any
    origin: str


_Tree = dict[str, Any]  # name → _Given, or for a table a dict of name → _Given


class _Reading:
    """Collects problems, notices and origins while a tree is read."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.notices: list[str] = []
        self.origins: dict[str, str] = {}
        self.failed: set[str] = set()

    def object(self, cls: type, tree: _Tree, path: str, default: Any = None) -> Any:
        """An object of `cls` from `tree`; None when something in it was wrong (see `problems`).

        At the top, where `path` is empty, what was wrong or is missing takes its default and is named in `failed`.
        """
        values: dict[str, Any] = {}
        before = known = len(self.problems)
        for name, key in keys_of(cls).items():
            here = path + name
            given = tree.get(name)
            if given is None:
                if default is not None:
                    values[name] = getattr(default, name)
                elif default_of(cls, name) is attrs.NOTHING and path:
                    self.problems.append(f"{here} is missing; must be {key.value.allowed}")
            elif isinstance(key.value, Table):
                values[name] = self.object(key.value.cls, given, here + ".", default_of(cls, name))
            elif isinstance(key.value, Tables):
                values[name] = self._objects(key.value.cls, given, here, key)
            else:
                values[name] = self._value(key.value, given, here)
            if len(self.problems) > known and not path:
                known = len(self.problems)
                self.failed.add(name)
                values.pop(name, None)
        if not path:
            values.setdefault("database_url", "")
            return cls(**values)
        return cls(**values) if len(self.problems) == before else None

    def _objects(self, cls: type, given: _Given, path: str, key: Key) -> tuple[Any, ...]:
        raw = given.raw
        if isinstance(raw, str):
            try:
                raw = json.loads(raw)
            except ValueError as error:
                where = f"column {error.colno}" if isinstance(error, json.JSONDecodeError) else "somewhere"
                self.problems.append(f"{path} ({given.origin}): no JSON ({where}); must be {key.value.allowed}")
                return ()
        if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
            self.problems.append(f"{path} ({given.origin}): must be {key.value.allowed}")
            return ()
        self.origins[path] = given.origin
        found = []
        for index, item in enumerate(raw):
            here = f"{path}[{index}]"
            tree: _Tree = {}
            for written, value in item.items():
                name = _snake_case(str(written))
                if name not in keys_of(cls):
                    words = _unknown(f"{here}.{written}", given.origin, name, keys_of(cls))
                    (self.notices if given.origin.startswith(PREFIX) else self.problems).append(words)
                elif name in tree:
                    self.problems.append(f"{here}.{name} ({given.origin}) is given twice")
                elif value is not None:
                    tree[name] = _Given(value, given.origin)
            found.append(self.object(cls, tree, here + "."))
        return tuple(found)

    def _value(self, value_type: Value, given: _Given, path: str) -> Any:
        self.origins[path] = given.origin
        try:
            return value_type.parse(given.raw)
        except BadValue as error:
            words = f" ({error})" if str(error) else ""
            shown = _shown(value_type, given.raw)
            self.problems.append(
                f"{path} ({given.origin}): {shown} is not allowed{words}; must be {value_type.allowed}"
            )
            return None


def _from_file(reading: _Reading, path: str | None) -> _Tree:
    if path is None:
        return {}
    name = Path(path).name
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{path}: cannot read the configuration: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: is not UTF-8 text"]) from None
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"\(at .*\)$", str(error))
        raise ConfigError([f"{path}: is not TOML {where[0] if where else '(at its end)'}"]) from None
    tree: _Tree = {}
    keys = {**keys_of(Settings), **INPUTS}
    obsolete = []
    for key_name, raw in content.items():
        if key_name in OBSOLETE:
            obsolete.append(key_name)
        elif key_name not in keys:
            reading.problems.append(_unknown(key_name, name, key_name, keys))
        elif isinstance(table := keys[key_name].value, Table):
            if not isinstance(raw, dict):
                reading.problems.append(f"{key_name} ({name}): must be a table: [{key_name}]")
                continue
            known = keys_of(table.cls)
            tree[key_name] = {child: _Given(value, name) for child, value in raw.items() if child in known}
            reading.problems += [
                _unknown(f"{key_name}.{child}", name, child, known) for child in raw if child not in known
            ]
        else:
            tree[key_name] = _Given(raw, name)
    _notice_obsolete(reading, obsolete, name)
    return tree


def _with_variables(reading: _Reading, tree: _Tree, environment: Mapping[str, str]) -> _Tree:
    """`tree` with what the variables say; an empty variable says nothing."""
    keys = {**keys_of(Settings), **INPUTS}
    known = {variable(name) for name, key in keys.items() if not isinstance(key.value, Table)} | {
        variable(f"{name}.{child}")
        for name, key in keys.items()
        if isinstance(key.value, Table)
        for child in keys_of(key.value.cls)
    }
    obsolete = []
    for name in sorted(environment):
        raw = environment[name]
        if not name.startswith(PREFIX):
            continue
        path = name.removeprefix(PREFIX).lower().split("__")
        if path[0] in OBSOLETE:
            obsolete.append(path[0])
        elif name not in known:
            reading.notices.append(_unknown_variable(name, path, known))
        elif raw == "":
            continue
        elif len(path) == 2:
            tree.setdefault(path[0], {})[path[1]] = _Given(raw, name)
        else:
            tree[path[0]] = _Given(raw, name)
    _notice_obsolete(reading, obsolete, "environment")
    return tree


def _expand_gateway_url(reading: _Reading, tree: _Tree) -> None:
    given = tree.pop("gateway_url", None)
    if given is None:
        return
    if "gateway_nodes" in tree:
        reading.problems.append(
            f"gateway_url ({given.origin}) and gateway_nodes ({tree['gateway_nodes'].origin}) exclude each other; "
            "keep one of them"
        )
        return
    if reading._value(HTTP, given, "gateway_url") is None:
        reading.failed.add("gateway_nodes")
    else:
        tree["gateway_nodes"] = _Given([{"name": "gateway", "url": given.raw}], given.origin)


def _with_database_credentials(
    reading: _Reading, settings: Settings, password_file: _Given | None, environment: Mapping[str, str]
) -> Settings:
    """`settings` whose database URL has the user and password of PGUSER, PGPASSWORD or the file, if it had none."""
    if not settings.database_url:
        return settings
    password, source = environment.get("PGPASSWORD"), "PGPASSWORD"
    if password_file is not None:
        try:
            password, source = read_secret(str(password_file.raw), environment), "database_password_file"
        except BadValue as error:
            reading.problems.append(f"database_password_file ({password_file.origin}): {error}")
    url, used = with_credentials(settings.database_url, environment.get("PGUSER"), password)
    if password_file is not None and password and "password" not in used:
        reading.problems.append(
            f"database_password_file ({password_file.origin}): database_url has a password already; keep one of them"
        )
    sources = [reading.origins["database_url"]]
    sources += ["PGUSER"] * ("user" in used) + [source] * ("password" in used)
    reading.origins["database_url"] = " and ".join(sources)
    return attrs.evolve(settings, database_url=url)


def _missing(settings: Settings, needed: Collection[str] | None, failed: Collection[str]) -> list[str]:
    problems = []
    for name, key in keys_of(Settings).items():
        roles = [role for role in key.needed_by if role in settings.roles]
        wanted = bool(roles) if needed is None else name in needed
        value = getattr(settings, name)
        is_contract = isinstance(value, Contract)
        if not wanted or name in failed or (value.address != NOWHERE if is_contract else bool(value)):
            continue
        path = name + (".address" if is_contract else "")
        allowed = keys_of(Contract)["address"].value.allowed if is_contract else key.value.allowed
        short = " or gateway_url (KMS_CONNECTOR_GATEWAY_URL)" if name == "gateway_nodes" else ""
        why = "" if needed is not None or roles == list(ROLES) else f" for the {' and the '.join(roles)}"
        problems.append(f"{path} ({variable(path)}){short} is missing{why}; must be {allowed}")
    return problems


def _open_file(path: str | None, origins: Mapping[str, str]) -> list[str]:
    if path is None or origins.get("private_key") != Path(path).name or not Path(path).stat().st_mode & 0o077:
        return []
    return [f"{path} holds private_key and others than its owner may read it; chmod 600 {path}"]


def _shown(value_type: Value, raw: Any) -> str:
    """What was found, as far as it may be shown."""
    item = value_type.item if isinstance(value_type, ListOf) else value_type
    if isinstance(item, Secret):
        return redact.HIDDEN
    if isinstance(item, Url):
        texts = raw if isinstance(raw, list) else str(raw).split(",") if item is not value_type else [raw]
        shown = ", ".join(redact.endpoint(text) if isinstance(text, str) else type(text).__name__ for text in texts)
    else:
        shown = redact.Redactor()(repr(raw))
    shown = re.sub(r"[0-9a-fA-F]{64,}", redact.HIDDEN, shown)
    return shown if len(shown) <= 80 else shown[:77] + "…"


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "_" + match[1].lower(), name)


def _unknown(path: str, origin: str, name: str, known: Iterable[str]) -> str:
    names = list(known)
    nearest = MISNAMED.get(name) or next(iter(get_close_matches(name, names, 1, 0.6)), None)
    if nearest:
        return f"{path} ({origin}): unknown key; did you mean {nearest}?"
    return f"{path} ({origin}): unknown key" + (f"; known are {', '.join(names)}" if len(names) <= 6 else "")


def _unknown_variable(name: str, path: Sequence[str], known: Iterable[str]) -> str:
    right = MISNAMED.get("__".join(path))
    nearest = variable(right) if right else next(iter(get_close_matches(name, sorted(known), 1, 0.8)), None)
    hint = f"; did you mean {nearest}?" if nearest else ""
    return f"{name} (environment): unknown variable, ignored{hint}"


def _notice_obsolete(reading: _Reading, names: Sequence[str], origin: str) -> None:
    if names:
        reasons = "; ".join(f"{name} ({OBSOLETE[name]})" for name in dict.fromkeys(names))
        reading.notices.append(f"without effect here ({origin}): {reasons}")
