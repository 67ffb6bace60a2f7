"""The processor and the memory that a server may use."""

import os
from dataclasses import dataclass
from pathlib import Path

from service.cgroups import CgroupLimits
from service.diagnosis.findings import Finding
from service.diagnosis.sizes import in_words

_AREA = "processor"

#: Instruction sets that matter for inference, by the kernel's names for them.
_INSTRUCTIONS = {
    "AVX2": "avx2",
    "AVX-512": "avx512f",
    "AVX-512 VNNI": "avx512_vnni",
    "AVX-512 BF16": "avx512_bf16",
    "AMX BF16": "amx_bf16",
    "AMX INT8": "amx_int8",
    "ARM BF16": "bf16",
}

#: Those with which `auto` computes in bf16.
_BF16 = ("AVX-512 BF16", "AMX BF16", "ARM BF16")

#: A server with one small model takes less.
_LEAST_MEMORY_BYTES = 1024 * 1024 * 1024


@dataclass(frozen=True)
class Processor:
    """What the kernel says of the processor; `instructions` are those that matter here."""

    model: str
    instructions: tuple[str, ...]

    @property
    def has_bf16(self) -> bool:
        """Whether it computes in bf16 by itself."""
        return any(each in _BF16 for each in self.instructions)


def parse_cpuinfo(text: str) -> Processor:
    """The first processor of `/proc/cpuinfo`."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, separator, value = line.partition(":")
        if separator:
            fields.setdefault(name.strip().lower(), value.strip())
    flags = set(fields.get("flags", fields.get("features", "")).split())
    found = tuple(name for name, flag in _INSTRUCTIONS.items() if flag in flags)
    return Processor(fields.get("model name", fields.get("cpu part", "unknown")), found)


def read_processor(path: Path = Path("/proc/cpuinfo")) -> Processor:
    """This machine's."""
    return parse_cpuinfo(path.read_text() if path.is_file() else "")


def check_processor(
    processor: Processor, num_cores: int, limits: CgroupLimits, inference_threads: int
) -> list[Finding]:
    """The processor, its cores, and the arithmetic; `inference_threads` is the setting."""
    instructions = ", ".join(processor.instructions) or "none that matters"
    return [
        Finding(
            _AREA,
            "model",
            "ok",
            f"{processor.model}; {instructions}",
            data={"model": processor.model, "instructions": processor.instructions},
        ),
        check_cores(num_cores, limits.cpus, inference_threads),
        tell_precision(processor),
    ]


def check_cores(num_cores: int, quota: float | None, inference_threads: int) -> Finding:
    """Whether more threads are set than the container has time for; 0 leaves it to the server."""
    data = {"cores": num_cores, "machine_cores": os.cpu_count(), "quota": quota}
    shown = f"{num_cores} of {os.cpu_count()} may be used"
    if quota is None:
        return Finding(_AREA, "cores", "ok", shown, data=data)
    shown += f", for {quota:g} cores' time"
    # Left to itself a server starts no more than the quota feeds.
    if inference_threads <= max(1.0, quota):
        return Finding(_AREA, "cores", "ok", shown, data=data)
    advice = (
        f"{inference_threads} threads share that time and stall together; unset "
        f"RTMDET_INFERENCE_THREADS, or set it to {max(1, int(quota))}"
    )
    return Finding(_AREA, "cores", "warning", shown, advice, data)


def tell_precision(processor: Processor) -> Finding:
    """What `auto` computes in; each model's line says what it really does."""
    precision = "bf16" if processor.has_bf16 else "f32"
    reason = "has it" if processor.has_bf16 else "has no bf16"
    detail = f"auto takes {precision} at the most: the processor {reason}"
    return Finding(_AREA, "precision", "ok", detail, data={"auto": precision})


def check_memory(
    machine_bytes: int | None, limits: CgroupLimits, max_buffered_bytes: int
) -> Finding:
    """Whether bodies of requests may take more than there is; the second is the setting."""
    known = [each for each in (machine_bytes, limits.memory_bytes) if each is not None]
    data = {"machine_bytes": machine_bytes, "limit_bytes": limits.memory_bytes}
    if not known:
        return Finding(_AREA, "memory", "ok", "unknown", data=data)
    usable = min(known)
    shown = in_words(usable)
    if usable == limits.memory_bytes:
        shown += ", the container's limit"
    if usable < _LEAST_MEMORY_BYTES + max_buffered_bytes:
        advice = (
            f"bodies of requests may take {in_words(max_buffered_bytes)} of it "
            "(RTMDET_MAX_BUFFERED_BYTES), models and pictures a gigabyte: allow more, or set less"
        )
        return Finding(_AREA, "memory", "warning", shown, advice, data)
    return Finding(_AREA, "memory", "ok", shown, data=data)


def machine_memory_bytes(path: Path = Path("/proc/meminfo")) -> int | None:
    """The memory of the machine, or None where the kernel does not say."""
    text = path.read_text() if path.is_file() else ""
    words = text.partition("MemTotal:")[2].split()
    return int(words[0]) * 1024 if words and words[0].isdecimal() else None
