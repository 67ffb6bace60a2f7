"""The real thing: exported graphs, the embedded runtime, the real command, over HTTP."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
import torch

from model.checkpoints.checkpoint_files import save_checkpoint
from model.config import VARIANTS
from model.export import export_model
from model.manifest import Source, Thresholds
from model.rtmdet import build_rtmdet
from service.http_api.schemas import DetectSchema
from tests.pictures import png_claiming

RTMDET = Path(sys.executable).with_name("rtmdet")
SIZE = (160, 160)
MODELS = {"boxes": "rtmdet-nano", "masks": "rtmdet-ins-nano", "turned": "rtmdet-r-nano"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model of each task, with random weights and a threshold that some boxes pass."""
    root = tmp_path_factory.mktemp("repository")
    for name, variant in MODELS.items():
        torch.manual_seed(1)
        network = build_rtmdet(replace(VARIANTS[variant], num_classes=3))
        with torch.no_grad():
            for key, parameter in network.head.named_parameters():
                if "reg_predictors" in key and key.endswith("bias"):
                    parameter.fill_(2.0)
        manifest = save_checkpoint(
            network,
            root.parent / f"{name}.safetensors",
            classes=("cat", "dog", "bird"),
            source=Source(kind="initialised", seed=1),
        )
        low = Thresholds(score=0.005, iou=0.5, max_detections=5)
        export_model(network, manifest, root, name=name, input_size=SIZE, thresholds=low)
    return root


@dataclass(frozen=True)
class Serving:
    """A running `rtmdet serve` and a client of it."""

    client: httpx.Client
    process: subprocess.Popen[bytes]


@contextmanager
def command_serving(repository: Path, **environment: str) -> Iterator[Serving]:
    """`rtmdet serve` as its own process; ended by SIGTERM, it must exit cleanly."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(RTMDET), "serve", "--port", str(port), "--repository", str(repository)]
    process = subprocess.Popen(
        command, env=os.environ | {"RTMDET_DRAIN_DELAY_MS": "0"} | environment
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            _wait_until_ready(client, process)
            yield Serving(client, process)
    finally:
        process.send_signal(signal.SIGTERM)
        exit_code = process.wait(30)
    assert exit_code == 0


def _wait_until_ready(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        assert process.poll() is None, "the server ended"
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise TimeoutError("the server was not ready in time")


@pytest.fixture(scope="module")
def client(repository: Path) -> Iterator[httpx.Client]:
    with command_serving(repository) as serving:
        yield serving.client


def peak_memory_kib(process: subprocess.Popen[bytes]) -> int:
    """The most that the process has ever held."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def photograph(seed: int = 0) -> bytes:
    patches = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    image = cv2.resize(patches, (320, 240), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", image)[1].tobytes()


def detect(client: httpx.Client, model: str, **options: str) -> dict:
    headers = {"Content-Type": "image/jpeg"}
    response = client.post(
        "/detect", params={"model": model, **options}, content=photograph(), headers=headers
    )
    assert response.status_code == 200, response.text
    body = response.json()
    DetectSchema.model_validate(body, strict=True)
    assert body["detections"], "nothing was detected: the test shows nothing"
    return body


@pytest.mark.parametrize("model", MODELS)
def test_detect__every_task_over_http(client: httpx.Client, model: str) -> None:
    body = detect(client, model)
    assert body["image"] == {"width": 320, "height": 240}
    for found in body["detections"]:
        x1, y1, x2, y2 = found["box"]
        assert 0 <= x1 < x2 <= 320
        assert 0 <= y1 < y2 <= 240
        assert found["label"] == ("cat", "dog", "bird")[found["class_id"]]
        assert ("mask" in found) == (model == "masks")
        assert ("rotated_box" in found) == (model == "turned")


def test_detect__masks_are_the_same_in_every_format(client: httpx.Client) -> None:
    from pycocotools import mask as coco

    rle = detect(client, "masks", mask_format="rle")["detections"]
    as_png = detect(client, "masks", mask_format="png")["detections"]
    polygons = detect(client, "masks", mask_format="polygon")["detections"]
    assert all("mask" not in d for d in detect(client, "masks", mask_format="none")["detections"])
    for run_lengths, picture, outline in zip(rle, as_png, polygons, strict=True):
        encoded = run_lengths["mask"]
        area = coco.area({"size": encoded["size"], "counts": encoded["counts"].encode()})
        data = np.frombuffer(b64decode(picture["mask"]["png"]), np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        assert pixels.shape == (240, 320)
        assert np.count_nonzero(pixels) == area
        rings = [
            (ring, sign)
            for part in outline["mask"]["polygons"]
            for ring, sign in [(part["exterior"], 1), *((hole, -1) for hole in part["holes"])]
        ]
        outlined = sum(sign * cv2.contourArea(np.array(ring, np.float32)) for ring, sign in rings)
        assert outlined == pytest.approx(area)


@pytest.mark.parametrize("model", MODELS)
def test_detect__drawn_picture_of_every_task(client: httpx.Client, model: str) -> None:
    headers = {"Content-Type": "image/jpeg", "Accept": "image/png"}
    response = client.post(
        "/detect", params={"model": model}, content=photograph(), headers=headers
    )
    drawn = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_COLOR)
    plain = cv2.imdecode(np.frombuffer(photograph(), np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape == plain.shape
    assert (drawn != plain).any()


def test_detect__picture_bomb_is_refused_from_its_header_on_every_way_in(
    repository: Path,
) -> None:
    """30,000 x 30,000 pixels would be 2.7 GB; the server's memory does not move."""
    bomb = png_claiming(30_000, 30_000)
    document = {"image": {"base64": b64encode(bomb).decode()}}
    with command_serving(repository) as serving:
        client = serving.client
        detect(client, "boxes")
        before = peak_memory_kib(serving.process)
        answers = [
            client.post("/detect", content=bomb, headers={"Content-Type": "image/png"}),
            client.post("/detect", files={"image": ("bomb.png", bomb)}),
            client.post("/detect", json=document),
        ]
        grown = peak_memory_kib(serving.process) - before
    for answer in answers:
        assert answer.status_code == 413, answer.text
        assert "30000 x 30000" in answer.json()["detail"]
    assert grown < 20_000


def test_detect__default_model_is_the_box_detector(client: httpx.Client) -> None:
    headers = {"Content-Type": "image/jpeg"}
    body = client.post("/detect", content=photograph(), headers=headers).json()
    assert body["model"]["name"] == "boxes"


def test_detect_command__gives_what_the_server_gives(
    client: httpx.Client, repository: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(photograph())
    command = [str(RTMDET), "detect", str(path), "--json", "--repository", str(repository)]
    command += ["--model", "turned", "--out", str(tmp_path / "drawn")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    ours = json.loads(done.stdout)
    assert ours["detections"] == detect(client, "turned")["detections"]
    assert (tmp_path / "drawn" / "a.detected.jpg").exists()


def test_detect_command__bad_picture_is_reported_and_the_rest_go_on(
    repository: Path, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.jpg", tmp_path / "bad.jpg"
    good.write_bytes(photograph())
    bad.write_bytes(b"no picture")
    command = [str(RTMDET), "detect", str(bad), str(tmp_path / "none.jpg"), str(good)]
    done = subprocess.run(
        [*command, "--repository", str(repository)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert str(good) in done.stdout
    assert len(done.stderr.splitlines()) == 2
    assert done.stderr.startswith(str(bad))


def test_detect_command__ends_quietly_when_nobody_reads(repository: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(photograph())
    reading, writing = os.pipe()
    os.close(reading)
    command = [str(RTMDET), "detect", str(picture), "--repository", str(repository)]
    with open(writing, "wb") as stdout:
        done = subprocess.run(
            command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (141, "")


def test_serve__loads_no_torch(repository: Path) -> None:
    """Neither does importing the service or detecting in process, on a machine without a GPU.

    With one, torch is what `auto` may choose, and is asked.
    """
    runtime = "openvino" if any(Path("/dev").glob("nvidia[0-9]*")) else "auto"
    script = (
        "import sys, rtmdet, service.__main__, service.http_api.app, model.__main__\n"
        "from service.settings import Settings\n"
        "from service.wiring import build_detector\n"
        f"build_detector(Settings(model_repository={str(repository)!r}, runtime={runtime!r}))\n"
        "heavy = {'torch', 'onnx', 'onnxscript', 'tensorrt'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_detect_command__reaches_for_no_network_and_leaves_the_home_alone(
    repository: Path, tmp_path: Path
) -> None:
    picture, home = tmp_path / "a.jpg", tmp_path / "home"
    picture.write_bytes(photograph())
    home.mkdir()
    script = (
        "import sys\n"
        "def refuse(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.gethostbyname'):\n"
        "        print(f'reached for the network: {event} {arguments}', file=sys.stderr)\n"
        "sys.addaudithook(refuse)\n"
        "import rtmdet\n"
        f"sys.argv = ['rtmdet', 'detect', {str(picture)!r}, '--repository', {str(repository)!r}]\n"
        "rtmdet.main()\n"
    )
    # Reporters stay silent on machines for continuous integration; users have none of that.
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | {"HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "detections" in done.stdout
    assert "reached for the network" not in done.stderr
    assert list(home.iterdir()) == []


def test_detect_command__pictures_of_one_name_do_not_overwrite_each_other(
    repository: Path, tmp_path: Path
) -> None:
    pictures = [tmp_path / "a" / "street.jpg", tmp_path / "b" / "street.jpg"]
    for picture in pictures:
        picture.parent.mkdir()
        picture.write_bytes(photograph())
    command = [str(RTMDET), "detect", *map(str, pictures), "--repository", str(repository)]
    subprocess.run([*command, "--out", str(tmp_path / "out")], capture_output=True, check=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "street.detected.jpg",
        "street-2.detected.jpg",
    }


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (
            ["--repository", "nowhere"],
            {},
            f"no model repository at {Path('nowhere').absolute()}: name",
        ),
        ([], {"RTMDET_PORT": "70000"}, "RTMDET_PORT"),
        ([], {"RTMDET_MODELS": "boxes,bokses"}, "did you mean 'boxes'"),
        (["--default-model", "nothing"], {}, "default model 'nothing'"),
        ([], {"RTMDET_PRECISION": "f8"}, "RTMDET_PRECISION"),
    ],
)
def test_serve__wrong_setting_is_one_clear_line(
    repository: Path, arguments: list[str], environment: dict[str, str], says: str
) -> None:
    settings = {"RTMDET_MODEL_REPOSITORY": str(repository), "RTMDET_PORT": "0"} | environment
    done = subprocess.run(
        [str(RTMDET), "serve", *arguments],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("rtmdet: ")


def test_serve__port_that_is_taken(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [str(RTMDET), "serve", "--port", port, "--repository", str(repository)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr


def test_serve__no_repository_is_told_before_the_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [str(RTMDET), "serve", "--port", port, "--repository", str(tmp_path / "none")],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"rtmdet: no model repository at {tmp_path / 'none'}: name one with")
