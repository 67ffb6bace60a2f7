"""The settings as a server would have them here, where each comes from, and what is wrong."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from service.diagnosis.findings import Finding
from service.environment import PREFIX, is_service_link, unknown_variables
from service.settings import Settings

_AREA = "settings"
_REFUSED = "a server refuses to start"

#: Values that a report must not show. A path to a file with secrets is none.
_SECRET = re.compile(r"(?:^|_)(?:token|secret|password|keys?)$")
_USER_OF_URL = re.compile(r"(?<=://)[^/@\s]+@")

Origin = Literal["default", "environment", "command line"]


@dataclass(frozen=True)
class SettingInForce:
    """One setting: its variable, its value as text, and who set it."""

    variable: str
    value: str
    origin: Origin


@dataclass(frozen=True)
class ReadSettings:
    """Settings that can be worked with, and what was wrong.

    `replaced` names those whose value cannot be used: they have their default here.
    """

    settings: Settings
    replaced: frozenset[str]
    findings: tuple[Finding, ...]


def read_settings(environment: Mapping[str, str], overrides: Mapping[str, object]) -> ReadSettings:
    """Read them; `environment` is the process's, `overrides` come from the command line.

    Each wrong value, and each variable that is none of ours, is a problem.
    """
    findings = _unknown(environment)
    port = environment.get(f"{PREFIX}PORT")
    replaced = {"port"} if is_service_link(port) and "port" not in overrides else set[str]()
    if replaced:
        findings.append(_service_link(port))
    try:
        settings = _settings(overrides)
    except ValidationError as error:
        wrong = {str(each["loc"][0]): each["msg"] for each in error.errors() if each["loc"]}
        findings += [_wrong(name, environment, said) for name, said in wrong.items()]
        replaced |= set(wrong)
        try:
            settings = _settings({**overrides, **{name: _default(name) for name in wrong}})
        except ValidationError as again:
            # Values that do not go together. The rest of the report needs some settings.
            said = again.errors(include_url=False)[0]["msg"]
            findings.append(Finding(_AREA, "together", "problem", said, _REFUSED))
            settings, replaced = Settings.model_construct(), set(Settings.model_fields)
    return ReadSettings(settings, frozenset(replaced), tuple(findings))


def list_settings(
    read: ReadSettings, environment: Mapping[str, str], overrides: Mapping[str, object]
) -> list[SettingInForce]:
    """Every setting, secrets redacted."""
    given = {name.upper() for name in environment}

    def origin_of(name: str) -> Origin:
        if name in read.replaced:
            return "default"
        if name in overrides:
            return "command line"
        return "environment" if _variable(name) in given else "default"

    return [
        SettingInForce(
            _variable(name), shown_value(name, getattr(read.settings, name)), origin_of(name)
        )
        for name in Settings.model_fields
    ]


def _settings(values: Mapping[str, object]) -> Settings:
    return Settings(**values)  # pyright: ignore[reportArgumentType] - validated at run time


def _default(name: str) -> object:
    field: FieldInfo = Settings.model_fields[name]
    return field.get_default(call_default_factory=True)


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _unknown(environment: Mapping[str, str]) -> list[Finding]:
    return [
        Finding(_AREA, each.name, "problem", f"no such setting; {_REFUSED}", each.hint)
        for each in unknown_variables(environment, Settings.model_fields)
    ]


def _service_link(value: object) -> Finding:
    return Finding(
        _AREA,
        f"{PREFIX}PORT",
        "warning",
        f"{value}: set by Kubernetes for a Service named rtmdet, and not used",
        "set enableServiceLinks: false in the pod, or RTMDET_PORT to a number",
    )


def _wrong(name: str, environment: Mapping[str, str], said: str) -> Finding:
    values = {variable.upper(): value for variable, value in environment.items()}
    value = shown_value(name, values.get(_variable(name), "")) or "its value"
    return Finding(_AREA, _variable(name), "problem", f"{value}: {said}; {_REFUSED}", "correct it")


def shown_value(name: str, value: object) -> str:
    """The value of the setting of that name as a report may show it; nothing where unset."""
    if value is None or value in ("", ()):
        return ""
    if _SECRET.search(name) or isinstance(value, SecretStr):
        return "(set)"
    if isinstance(value, tuple):
        return ",".join(map(str, cast("tuple[object, ...]", value)))
    return _USER_OF_URL.sub("***@", str(value))
