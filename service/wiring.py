"""Builds the service from its settings: the one place where parts are put together."""

import logging
import os
from datetime import UTC, datetime

from model.repository import ModelRepository, RepositoryModel
from service.access.gate import Gate
from service.access.start_policy import check_exposure
from service.access.watched_keys import WatchedKeys
from service.codecs.images import ImageLimits
from service.cores import num_usable_cores
from service.detector import Detector, DetectorLimits
from service.environment import PREFIX
from service.registry import ModelRegistry
from service.runtime.base import Runtime
from service.runtime.choice import RuntimeChoice, RuntimeUnavailable, choose, look
from service.runtime.fake_plan import FakePlan, parse_fake_plan
from service.runtime.yielding import yielding
from service.scheduler.call_threads import CallThreads
from service.settings import Settings, SettingsError
from service.tracing.base import NO_TRACING, Tracing

logger = logging.getLogger(__name__)


def build_detector(settings: Settings, tracing: Tracing = NO_TRACING) -> Detector:
    """Open the models and put the detector together; blocks until they are compiled.

    Raises RepositoryError where there is nothing to serve, and SettingsError for a runtime that is
    not installed.
    """
    choice = choose_runtime(settings)
    logger.info("runtime %s", choice)
    registry = ModelRegistry(
        ModelRepository(settings.model_repository),
        lambda source: yielding(
            settings.inference_nice, lambda: open_runtime(source, settings, choice=choice)
        ),
        max_waiting=settings.max_queue,
        num_places=_num_places(settings, choice),
        hang_s=settings.hang_timeout_ms / 1000,
        default_model=settings.default_model,
    )
    registry.open(settings.models)
    limits = DetectorLimits(
        image=ImageLimits(settings.max_image_bytes, settings.max_image_pixels),
        # As many again as may wait: what has been inferred and is not answered yet.
        max_in_flight=2 * settings.max_queue,
        default_timeout_s=settings.request_timeout_ms / 1000,
        max_working_bytes=settings.max_working_bytes,
        max_images_per_request=settings.max_images_per_request,
    )
    num_workers = settings.worker_threads or num_usable_cores()
    workers = CallThreads(num_workers, "worker")
    return Detector(registry, workers, limits, tracing)


def choose_tracing(settings: Settings) -> Tracing:
    """What records where the time of requests goes. Raises SettingsError where that cannot be."""
    if settings.tracing == "off":
        if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
            logger.info("no traces are sent: RTMDET_TRACING=otlp would send them")
        return NO_TRACING
    try:
        from service.tracing.otlp import UnusableTracing, open_tracing
    except ModuleNotFoundError as error:
        raise SettingsError(
            "RTMDET_TRACING=otlp needs the otel extra: pip install '.[otel]' "
            f"({error.name} is missing)"
        ) from error
    try:
        return open_tracing()
    except UnusableTracing as error:
        raise SettingsError(str(error)) from error


def build_gate(settings: Settings) -> Gate:
    """Read the keys and decide whom to admit.

    Raises KeysFileError, and SettingsError where the server would be open to others unintended.
    """
    keys = None if settings.api_keys_file is None else WatchedKeys(settings.api_keys_file)
    check_exposure(
        settings.host,
        num_usable_keys=None if keys is None else keys.current().num_usable(datetime.now(UTC)),
        allow_anonymous=settings.allow_anonymous,
    )
    rates = None
    if settings.rate_limit.strip():
        # Imported here because the library takes its time, and few servers need it.
        from service.access.rate_limits import RateLimits, parse_rate_limits

        rates = RateLimits(parse_rate_limits(settings.rate_limit))
    only_this_machine = keys is None and not settings.allow_anonymous
    return Gate(keys, rates, only_this_machine=only_this_machine)


def choose_runtime(settings: Settings) -> RuntimeChoice:
    """The runtime that is set, or the best that is there.

    Raises SettingsError where it is not installed, or its own settings are wrong.
    """
    try:
        choice = choose(settings.runtime, look(settings.runtime))
    except RuntimeUnavailable as error:
        raise SettingsError(f"{PREFIX}RUNTIME={settings.runtime}: {error}") from error
    if choice.name == "fake":
        _fake_plan(settings)
    elif settings.fake:
        logger.warning("%sFAKE has no effect: the runtime is %s", PREFIX, choice.name)
    return choice


def open_runtime(
    source: RepositoryModel,
    settings: Settings,
    *,
    outputs: tuple[str, ...] | None = None,
    choice: RuntimeChoice | None = None,
) -> Runtime:
    """The runtime of `choice`, or that the settings choose, holding one model.

    `outputs` names tensors of the graph to be given instead of its own outputs; evaluation opens
    so what candidates are selected from.
    """
    if choice is None:
        named = settings.runtime
        choice = choose_runtime(settings) if named == "auto" else RuntimeChoice(named, "as set")
    # Imported below because a server with one runtime need not have the libraries of another.
    if choice.name == "fake":
        from service.runtime.fake import FakeModel, PlannedFakeRuntime

        plan = _fake_plan(settings)
        model = FakeModel(source.manifest.task, len(source.manifest.classes), plan.detections)
        return PlannedFakeRuntime(plan, model, reason=choice.reason)
    if choice.name == "torch":
        from service.runtime.torch_cuda import TorchSession

        return TorchSession(
            source.graph_path,
            precision=settings.precision,
            max_batch_size=settings.max_batch_size,
            num_threads=settings.inference_threads,
            outputs=outputs,
            reason=choice.reason,
        )
    from service.runtime.openvino_session import OpenVINOSession

    return OpenVINOSession(
        source.graph_path,
        input_size=source.manifest.input_size,
        precision=settings.precision,
        num_threads=settings.inference_threads,
        outputs=outputs,
        evaluations=source.manifest.evaluations,
        reason=choice.reason,
    )


def _num_places(settings: Settings, choice: RuntimeChoice) -> int:
    """How many calls of runtimes keep the machine busy, all models together."""
    if choice.name == "torch":
        # A GPU computes one batch while another is copied; on a processor torch has all threads.
        return 2 if choice.on_gpu else 1
    cores = settings.inference_threads or num_usable_cores()
    if choice.name == "fake":
        return max(cores, _fake_plan(settings).concurrency)
    from service.runtime.openvino_session import CALLS_AHEAD

    return cores + CALLS_AHEAD


def _fake_plan(settings: Settings) -> FakePlan:
    try:
        return parse_fake_plan(settings.fake)
    except ValueError as error:
        raise SettingsError(f"{PREFIX}FAKE: {error}") from error
