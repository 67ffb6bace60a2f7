"""`rtmdet doctor`: what a server would find here, as a report to read or to paste."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from model.command_line import print_whole
from model.repository import ModelRepository
from service.cgroups import read_cgroup_limits
from service.commands.options import Repository
from service.cores import num_allowed_cores
from service.diagnosis.accelerators import check_gpus
from service.diagnosis.certificates import check_certificate
from service.diagnosis.findings import Finding
from service.diagnosis.machine_limits import (
    check_disk,
    check_open_files,
    check_secret_file,
    check_shared_memory,
    open_files_limit,
)
from service.diagnosis.models import check_chosen, check_models
from service.diagnosis.ports import check_port
from service.diagnosis.processor import (
    check_memory,
    check_processor,
    machine_memory_bytes,
    read_processor,
)
from service.diagnosis.report import Report, as_json, as_text
from service.diagnosis.settings_in_force import list_settings, read_settings
from service.diagnosis.versions import check_versions, installed_version
from service.settings import Settings
from service.wiring import open_runtime

#: A problem was found.
EXIT_PROBLEM = 1

#: Settings that name files with secrets.
_SECRET_FILES = ("api_keys_file", "tls_key")


def doctor(
    json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
    repository: Repository = None,
) -> None:
    """Check versions, machine, settings, port and every model; exit code 1 where a server would
    not work.

    Nothing is sent anywhere: only this machine is asked.
    """
    if repository is not None and not repository.is_dir():
        raise ValueError(f"there is no folder {repository}; name a repository of models")
    overrides = {} if repository is None else {"model_repository": repository}
    read = read_settings(os.environ, overrides)
    models = ModelRepository(read.settings.model_repository)
    findings = [
        *check_versions(),
        *_machine(read.settings),
        *check_gpus(),
        *read.findings,
        *_certificates(read.settings),
        check_port(read.settings.host, read.settings.port),
        *check_chosen(models.names(), read.settings.models, read.settings.default_model),
        *check_models(models, lambda source: open_runtime(source, read.settings)),
    ]
    report = Report(findings, list_settings(read, os.environ, overrides))
    print_whole(as_json(report) if json else as_text(report))
    raise typer.Exit(EXIT_PROBLEM if report.verdict == "problem" else 0)


def _machine(settings: Settings) -> list[Finding]:
    limits = read_cgroup_limits()
    uses_shared_memory = installed_version("tritonclient") is not None
    return [
        *check_processor(read_processor(), num_allowed_cores(), limits, settings.inference_threads),
        check_memory(machine_memory_bytes(), limits, settings.max_buffered_bytes),
        check_open_files(open_files_limit(), settings.max_connections),
        check_shared_memory(is_needed=uses_shared_memory),
        check_disk(settings.model_repository),
        *check_secret_files(settings),
    ]


def _certificates(settings: Settings) -> list[Finding]:
    if settings.tls_certificate is None:
        return []
    return [check_certificate(settings.tls_certificate, datetime.now(UTC))]


def check_secret_files(settings: Settings) -> list[Finding]:
    """Whether others may read the files with secrets that the settings name."""
    named = {name: getattr(settings, name) for name in _SECRET_FILES}
    return [
        check_secret_file(f"RTMDET_{name.upper()}", path)
        for name, path in named.items()
        if isinstance(path, Path)
    ]
