"""Which runtime is taken, and what is said of it, on machines as they are found."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from service.http_api.app import create_app
from service.runtime.choice import (
    CudaDevice,
    Machine,
    RuntimeChoice,
    RuntimeUnavailable,
    choose,
    look,
)
from service.settings import Settings, SettingsError
from service.wiring import build_detector, choose_runtime
from tests.conftest import PROJECT
from tests.repositories import write_model
from tests.servers import running_server

H200 = "NVIDIA H200, torch 2.13.0 with CUDA 13.0"


def machine(
    *, openvino: bool = True, torch: bool = True, gpu: str | None = None, **cuda: str
) -> Machine:
    return Machine(openvino, torch, gpu, CudaDevice(**cuda))


@pytest.mark.parametrize(
    ("found", "name", "says"),
    [
        (machine(), "openvino", ["no NVIDIA GPU on this machine"]),
        (machine(torch=False), "openvino", ["no NVIDIA GPU on this machine"]),
        (machine(gpu="NVIDIA H200", name=H200), "torch", [H200]),
        (
            machine(gpu="NVIDIA H200", torch=False),
            "openvino",
            ["NVIDIA H200 is there, but torch", "not installed", ".[torch]"],
        ),
        (
            machine(gpu="NVIDIA H200", problem="torch 2.13.0+cpu is built without CUDA"),
            "openvino",
            ["NVIDIA H200 is there, but torch 2.13.0+cpu is built without CUDA"],
        ),
        (machine(openvino=False), "torch", ["no NVIDIA GPU", ".[serve]"]),
    ],
)
def test_choose__takes_the_best_and_says_why(found: Machine, name: str, says: list[str]):
    choice = choose("auto", found)

    assert choice.name == name
    assert [text for text in says if text not in choice.reason] == []
    assert str(choice) == f"{name}: {choice.reason}"


def test_choose__knows_whether_it_is_a_gpu():
    assert choose("auto", machine(gpu="NVIDIA H200", name=H200)).on_gpu
    assert choose("torch", machine(gpu="NVIDIA H200", name=H200)).on_gpu
    assert not choose("torch", machine()).on_gpu
    assert not choose("auto", machine(openvino=False)).on_gpu


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (machine(gpu="NVIDIA H200", name=H200), H200),
        (machine(), "on the processor, for there is no NVIDIA GPU"),
        (
            machine(gpu="an NVIDIA GPU", problem="torch is old"),
            "on the processor, for torch is old",
        ),
    ],
)
def test_choose__torch_as_set_says_where_it_runs(found: Machine, says: str):
    assert choose("torch", found).reason == f"as set; {says}"


@pytest.mark.parametrize(
    ("wanted", "found", "install"),
    [
        ("openvino", machine(openvino=False), "pip install '.[serve]'"),
        ("torch", machine(torch=False), "pip install '.[torch]'"),
        ("auto", machine(openvino=False, torch=False), "pip install '.[serve]'"),
    ],
)
def test_choose__what_is_not_installed_is_said_with_how_to_get_it(wanted, found, install):
    with pytest.raises(RuntimeUnavailable) as raised:
        choose(wanted, found)

    assert install in str(raised.value)
    assert "\n" not in str(raised.value)


def test_choose__fake_is_never_the_best_and_always_there():
    nothing = machine(openvino=False, torch=False)

    assert choose("fake", nothing).name == "fake"


def files(root: Path, **contents: str) -> Path:
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def must_not_be_asked() -> CudaDevice:
    raise AssertionError("torch was asked")


def test_look__without_a_gpu_asks_no_torch(tmp_path: Path):
    # The driver is there, as in a container that was given no device.
    root = files(tmp_path, **{"proc/driver/nvidia/version": "NVRM", "dev/nvidiactl": ""})
    found = look(root=root, is_installed=lambda _: True, ask_torch=must_not_be_asked)

    assert found == Machine(has_openvino=True, has_torch=True, gpu=None)


@pytest.mark.parametrize("missing", ["torch", "onnx"])
def test_look__gpu_without_torch(tmp_path: Path, missing: str):
    root = files(
        tmp_path,
        **{
            "dev/nvidia0": "",
            "proc/driver/nvidia/gpus/0000:0a:00.0/information": (
                "Model: \t\t NVIDIA H200\nIRQ:   \t\t 255\n"
            ),
        },
    )
    found = look(root=root, is_installed=lambda name: name != missing, ask_torch=must_not_be_asked)

    assert found == Machine(has_openvino=True, has_torch=False, gpu="NVIDIA H200")


@pytest.mark.parametrize(
    "devices",
    [["dev/nvidia3"], ["dev/dxg", "usr/lib/wsl/lib/libcuda.so.1"]],
    ids=["linux", "windows"],
)
def test_look__gpu_whose_name_is_not_told(tmp_path: Path, devices: list[str]):
    root = files(tmp_path, **dict.fromkeys(devices, ""))
    device = CudaDevice(H200)
    found = look(root=root, is_installed=lambda _: True, ask_torch=lambda: device)

    assert (found.gpu, found.cuda) == ("an NVIDIA GPU", device)


def test_look__asks_no_torch_for_another_runtime(tmp_path: Path):
    root = files(tmp_path, **{"dev/nvidia0": ""})

    for wanted in ("openvino", "fake"):
        look(wanted, root=root, is_installed=lambda _: True, ask_torch=must_not_be_asked)


def test_cuda_device__of_a_torch_without_cuda_says_so(monkeypatch: pytest.MonkeyPatch):
    import torch

    from service.runtime.torch_cuda import cuda_device

    monkeypatch.setattr(torch.version, "cuda", None)
    assert cuda_device() == CudaDevice(problem=f"torch {torch.__version__} is built without CUDA")


def test_choose_runtime__that_is_not_installed_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openvino", None)

    with pytest.raises(SettingsError, match=r"RTMDET_RUNTIME=openvino: .* pip install"):
        choose_runtime(Settings(runtime="openvino"))


def test_serve__runtime_that_is_not_installed_is_one_clear_line():
    program = (
        "import sys; sys.modules['openvino'] = None\n"
        "sys.argv = ['rtmdet', 'serve', '--port', '0']\n"
        "import os; os.environ['RTMDET_RUNTIME'] = 'openvino'\n"
        "import rtmdet; rtmdet.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=PROJECT
    )

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("rtmdet: RTMDET_RUNTIME=openvino: ")
    assert "pip install '.[serve]'" in line


def test_models__tell_why_their_runtime_was_chosen(tmp_path: Path):
    write_model(tmp_path, "boxes")
    detector = build_detector(Settings(model_repository=tmp_path, runtime="fake"))
    with running_server(create_app(detector, max_buffered_bytes=10**8)) as client:
        (model,) = models(client)

    assert model["runtime"] == "fake"
    assert model["runtime_reason"] == str(RuntimeChoice("fake", "as set; no network is run").reason)


def models(client: httpx.Client) -> list[dict]:
    return client.get("/models").json()["models"]
