import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from model.__main__ import app
from model.checkpoints.checkpoint_files import export_published, load_checkpoint, save_checkpoint
from model.checkpoints.published import PUBLISHED, PublishedModel
from model.classifier import build_classifier
from model.command_line import how_to_get, parse_input_size, table
from model.config import CLASSIFIERS, VARIANTS
from model.manifest import Source, read_checkpoint_manifest, read_model_manifest
from model.rtmdet import RTMDet, build_rtmdet
from model.weights import to_published
from tests.file_server import serving

torch.set_num_threads(1)

PROJECT = Path(__file__).resolve().parent.parent


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def network_of(variant: str = "rtmdet-nano", num_classes: int = 2) -> RTMDet:
    torch.manual_seed(0)
    return build_rtmdet(VARIANTS[variant].with_classes(num_classes))


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands write below the current folder unless told otherwise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RTMDET_MODEL_REPOSITORY", raising=False)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def cats(tmp_path: Path) -> Path:
    """A published file of two classes, which its meta names."""
    path = tmp_path / "epoch_300.pth"
    export_published(network_of(), path, classes=["cat", "dog"])
    return path


@pytest.fixture
def nameless(tmp_path: Path) -> Path:
    """A published file of two classes, which it does not name."""
    path = tmp_path / "nameless.pth"
    export_published(network_of(), path, classes=["cat", "dog"])
    torch.save({"state_dict": torch.load(path, weights_only=True)["state_dict"]}, path)
    return path


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[PublishedModel, bytes]:
    """A file in place of a published one, and the row of the table that knows it."""
    path = tmp_path / "published.pth"
    export_published(network_of(num_classes=1), path, classes=["person"])
    content = path.read_bytes()
    path.unlink()
    digest = hashlib.sha256(content).hexdigest()[:8]
    model = replace(PUBLISHED["rtmdet-nano-person"], path=f"folder/nano-{digest}.pth")
    monkeypatch.setitem(PUBLISHED, model.name, model)
    return model, content


def refused(result: Result, *words: str, exit_code: int = 2) -> None:
    """One line on stderr, with these words, and nothing on stdout."""
    assert result.exit_code == exit_code, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("rtmdet: ")
    for word in words:
        assert word in result.stderr


# ----------------------------------------------------------------------------------------- import


def test_import__takes_what_it_needs_from_the_file(cats: Path) -> None:
    result = run("models", "import", cats, "--no-export")
    assert (result.exit_code, result.stdout) == (0, "checkpoints/rtmdet-nano-custom.safetensors\n")
    network, manifest = load_checkpoint(Path("checkpoints/rtmdet-nano-custom.safetensors"))
    assert (manifest.variant, manifest.classes) == ("rtmdet-nano", ("cat", "dog"))
    assert manifest.input_size == (320, 320)
    assert manifest.source == Source(
        kind="imported", file="epoch_300.pth", sha256=hashlib.sha256(cats.read_bytes()).hexdigest()
    )
    wanted = network_of().state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in network.state_dict().items())


def test_import__takes_what_the_caller_says(nameless: Path) -> None:
    result = run(
        "models", "import", nameless, "--model", "rtmdet-nano", "--classes", "a,b",
        "--name", "letters", "--input-size", "64x96", "--checkpoints", "kept", "--no-export",
        "--json",
    )  # fmt: skip
    assert json.loads(result.stdout) == {
        "name": "letters",
        "variant": "rtmdet-nano",
        "task": "detect",
        "num_classes": 2,
        "input_size": [64, 96],
        "checkpoint": "kept/letters.safetensors",
        "version": None,
    }
    assert read_checkpoint_manifest(Path("kept/letters.json")).classes == ("a", "b")


def test_import__names_a_model_of_one_class_after_it(tmp_path: Path) -> None:
    export_published(network_of(num_classes=1), tmp_path / "a.pth", classes=["traffic light"])
    result = run("models", "import", "a.pth", "--no-export")
    assert result.stdout == "checkpoints/rtmdet-nano-traffic-light.safetensors\n"


def test_import__knows_a_published_file_that_was_brought_by_hand(
    tmp_path: Path, published: tuple[PublishedModel, bytes]
) -> None:
    model, content = published
    (tmp_path / "renamed.bin").write_bytes(content)
    result = run("models", "import", "renamed.bin", "--no-export")
    assert result.stdout == "checkpoints/rtmdet-nano-person.safetensors\n"
    manifest = read_checkpoint_manifest(Path("checkpoints/rtmdet-nano-person.json"))
    assert (manifest.source.kind, manifest.source.url) == ("published", model.url)
    assert manifest.metrics == {"box_ap": 0.403}


def test_import__again_changes_nothing(cats: Path) -> None:
    path = Path("checkpoints/rtmdet-nano-custom.safetensors")
    run("models", "import", cats, "--no-export")
    written = path.stat().st_mtime_ns
    assert run("models", "import", cats, "--no-export").exit_code == 0
    assert path.stat().st_mtime_ns == written


def test_import__takes_no_name_that_something_else_has(cats: Path, nameless: Path) -> None:
    run("models", "import", cats, "--no-export", "--name", "mine")
    taken = ("models", "import", nameless, "--classes", "a,b", "--no-export", "--name", "mine")
    refused(run(*taken), "mine.safetensors is there already", "--overwrite")
    assert run(*taken, "--overwrite").exit_code == 0
    assert read_checkpoint_manifest(Path("checkpoints/mine.json")).classes == ("a", "b")


def test_import__chooses_the_weights_before_averaging(tmp_path: Path, cats: Path) -> None:
    content = torch.load(cats, weights_only=True)
    state = content["state_dict"]
    content["ema_state_dict"] = {
        f"module.{name}": value + 1 if name.endswith(".bn.bias") else value
        for name, value in state.items()
    }
    torch.save(content, cats)
    run("models", "import", cats, "--no-export", "--plain")
    network, _ = load_checkpoint(Path("checkpoints/rtmdet-nano-custom.safetensors"))
    assert (network.backbone.stem[0].get_submodule("norm").state_dict()["bias"] == 1).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "rtmdet-huge"], ["unknown model variant 'rtmdet-huge'", "rtmdet-tiny"]),
        (["--model", "rtmdet-tiny"], ["do not fit rtmdet-tiny", "looks like rtmdet-nano"]),
        (["--classes", "coco"], ["predict 2 classes, but 80 are named"]),
        (["--classes", "a,a"], ["'a' is named twice"]),
        (["--classes", "none.txt"], ["none.txt", "No such file"]),
        (["--input-size", "100"], ["multiples of 32"]),
        (["--input-size", "640x"], ["input size '640x'"]),
        (["--name", "../up"], ["'../up' is no model name"]),
        (["--plain"], ["one set of weights"]),
    ],
)
def test_import__refuses_what_does_not_fit(
    cats: Path, options: list[str], words: list[str]
) -> None:
    refused(run("models", "import", cats, "--no-export", *options), *words)
    assert not Path("checkpoints").exists()


def test_import__asks_for_classes_that_nobody_names(nameless: Path) -> None:
    result = run("models", "import", nameless, "--no-export")
    refused(result, "does not name its 2 classes", "--classes")


@pytest.mark.parametrize(
    ("name", "word"), [("missing.pth", "No such file"), (".", "folder"), ("page.pth", "web page")]
)
def test_import__refuses_what_is_no_checkpoint(tmp_path: Path, name: str, word: str) -> None:
    (tmp_path / "page.pth").write_text("<html>404</html>")
    refused(run("models", "import", name), word)


def test_import__refuses_a_classifier(tmp_path: Path) -> None:
    network = build_classifier(CLASSIFIERS["cspnext-tiny"], num_classes=3)
    torch.save({"state_dict": to_published(network)}, tmp_path / "a.pth")
    refused(run("models", "import", "a.pth"), "the classifier cspnext-tiny, which detects nothing")


# ----------------------------------------------------------------------------- pull, list, export


def test_pull__downloads_converts_and_exports_once(
    published: tuple[PublishedModel, bytes],
) -> None:
    model, content = published
    with serving(content) as server:
        pull = ("models", "pull", "rtmdet-nano", "--mirror", server.url, "--json")
        result = run(*pull)
        assert result.exit_code == 0, result.output
        assert server.paths == [f"/{model.path}"]
    outcome = json.loads(result.stdout)
    assert outcome["version"] == "triton_repo/rtmdet-nano-person/1"
    assert Path(outcome["version"], "model.onnx").stat().st_size > 10**6
    assert "rtmdet-nano-person: 100 %" in result.stderr
    # The server is gone: what is in the repository needs none.
    again = json.loads(run(*pull).stdout)
    assert again == outcome | {"checkpoint": None}

    listing = json.loads(run("models", "list", "--json").stdout)
    (stored,) = listing["models"]
    assert (stored["name"], stored["versions"]) == ("rtmdet-nano-person", [1])
    assert stored["source"]["url"] == model.url


def test_pull__of_a_classifier_only_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"weights of a classifier"
    digest = hashlib.sha256(content).hexdigest()[:8]
    model = replace(PUBLISHED["cspnext-tiny-imagenet"], path=f"c-{digest}.pth")
    monkeypatch.setitem(PUBLISHED, model.name, model)
    with serving(content) as server:
        result = run("models", "pull", "cspnext-tiny", "--mirror", server.url)
    assert result.stdout == f"checkpoints/published/c-{digest}.pth\n"
    assert Path(result.stdout.strip()).read_bytes() == content


def test_pull__says_how_to_bring_a_file_by_hand(
    published: tuple[PublishedModel, bytes],
) -> None:
    model, content = published
    with serving(content, statuses=[404]) as server:
        result = run("models", "pull", "rtmdet-nano", "--mirror", server.url)
    refused(
        result,
        "the server answered 404",
        f"rtmdet models import {model.file_name} --model rtmdet-nano",
        exit_code=1,
    )


def test_pull__refuses_another_file_than_was_published(
    published: tuple[PublishedModel, bytes],
) -> None:
    _, content = published
    with serving(content + b"!") as server:
        result = run("models", "pull", "rtmdet-nano", "--mirror", server.url)
    assert result.exit_code == 1
    assert "does not have the published sha256" in result.stderr
    assert list(Path("checkpoints/published").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rtmdet-huge"], ["no published weights are named 'rtmdet-huge'", "rtmdet-tiny-coco"]),
        ([], ["--all-detect"]),
        (["rtmdet-tiny", "--mirror", "http://example.com"], ["is no https address"]),
    ],
)
def test_pull__refuses_what_is_not_published(arguments: list[str], words: list[str]) -> None:
    refused(run("models", "pull", *arguments), *words)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("runs/shop/best.safetensors", "shop"),
        ("runs/shop/last.safetensors", "shop"),
        ("runs/shop/cats.safetensors", "cats"),
        ("runs/my shop/best.safetensors", "best"),
    ],
)
def test_import__names_checkpoints_of_a_run_by_its_folder(file: str, name: str) -> None:
    path = Path(file)
    path.parent.mkdir(parents=True)
    source = Source(kind="initialised", seed=0)
    save_checkpoint(network_of(), path, classes=["cat", "dog"], source=source)
    result = run("models", "import", path, "--no-export", "--json")
    assert json.loads(result.stdout)["name"] == name


def test_import__names_a_checkpoint_of_the_current_folder_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop").mkdir()
    monkeypatch.chdir(tmp_path / "shop")
    source = Source(kind="initialised", seed=0)
    save_checkpoint(network_of(), Path("best.safetensors"), classes=["cat", "dog"], source=source)
    result = run("models", "import", "best.safetensors", "--no-export", "--json")
    assert json.loads(result.stdout)["name"] == "shop"


def test_list__shows_what_can_be_pulled_where_nothing_is_stored() -> None:
    result = run("models", "list", "--repository", "nowhere")
    assert result.exit_code == 0
    assert result.stdout.startswith("no models in nowhere\n")
    assert all(name in result.stdout for name in PUBLISHED)
    listing = json.loads(run("models", "list", "--json").stdout)
    assert listing["models"] == []
    assert [row["name"] for row in listing["published"]] == list(PUBLISHED)


def test_list__takes_the_repository_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTMDET_MODEL_REPOSITORY", "elsewhere")
    assert json.loads(run("models", "list", "--json").stdout)["repository"] == "elsewhere"


def test_list__shows_a_broken_model_and_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "triton_repo" / "damaged"
    folder.mkdir(parents=True)
    (folder / "model.json").write_text("{")
    result = run("models", "list")
    assert result.exit_code == 0
    assert "damaged" in result.stdout
    assert "broken: " in result.stdout
    (row,) = json.loads(run("models", "list", "--json").stdout)["models"]
    assert row["name"] == "damaged"
    assert "model.json" in row["problem"]


def saved_cats(folder: Path) -> Path:
    path = folder / "cats.safetensors"
    source = Source(kind="initialised", seed=0)
    save_checkpoint(
        network_of(), path, classes=["cat", "dog"], source=source, metrics={"box_ap": 0.5}
    )
    return path


def test_export__writes_a_version_of_the_size_that_was_asked_for(tmp_path: Path) -> None:
    path = saved_cats(tmp_path)
    exported = run("export", path, "--input-size", "64x96", "--candidates", 50, "--json")
    assert exported.exit_code == 0, exported.output
    outcome = json.loads(exported.stdout)
    assert (outcome["version"], outcome["input_size"]) == ("triton_repo/cats/1", [64, 96])
    row = run("models", "list").stdout.splitlines()[1]
    assert re.split(r"\s{2,}", row) == ["cats", "detect", "2", "64x96", "1", "box_ap 0.500"]


def test_export__keeps_the_thresholds_that_requests_get(tmp_path: Path) -> None:
    path = saved_cats(tmp_path)
    options = ("--score-threshold", 0.45, "--max-detections", 7)
    exported = run("export", path, "--input-size", 64, *options, "--json")
    assert exported.exit_code == 0, exported.output
    thresholds = read_model_manifest(Path("triton_repo/cats/model.json")).versions[1].thresholds
    assert (thresholds.score, thresholds.iou, thresholds.max_detections) == (0.45, 0.65, 7)


def test_export__refuses_a_threshold_that_is_none(tmp_path: Path) -> None:
    result = run("export", saved_cats(tmp_path), "--score-threshold", 1.5)
    assert result.exit_code == 2
    assert "--score-threshold" in result.stderr


def test_export__refuses_what_is_said_against_the_manifest(tmp_path: Path) -> None:
    path = saved_cats(tmp_path)
    refused(run("export", path, "--model", "rtmdet-tiny"), "its manifest says rtmdet-nano")
    refused(run("export", path, "--classes", "a,b"), "its manifest says ('cat', 'dog')")


# ------------------------------------------------------------------------------------ the commands


@pytest.mark.parametrize("command", ["models import", "models pull", "models list", "export"])
def test_help__has_an_example(command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"Example: rtmdet {command}" in " ".join(result.stdout.split())


def test_commands__import_torch_only_where_they_need_it() -> None:
    program = (
        "import sys\n"
        "from model.__main__ import app\n"
        "app(['models', 'list'], standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL, cwd=PROJECT
    )


def test_commands__say_which_extra_they_need(cats: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from model.__main__ import app\n"
        f"app(['models', 'import', {str(cats)!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=PROJECT
    )
    assert done.returncode == 2
    assert done.stderr == f"rtmdet: this command needs the export extra: {how_to_get('export')}\n"


def test_how_to_get__what_is_missing_is_brought_by_what_installed_the_rest(tmp_path: Path) -> None:
    assert how_to_get("export", tmp_path) == "pip install '.[export]' in the project's folder"
    (tmp_path / "Makefile").touch()
    (tmp_path / ".venv").mkdir()
    assert "pip install" in how_to_get("export", tmp_path)
    (tmp_path / ".venv").rmdir()
    (tmp_path / ".venv").symlink_to(sys.prefix)
    assert how_to_get("export", tmp_path) == f"make setup (in {tmp_path})"


@pytest.mark.parametrize(
    ("text", "size"), [(None, None), ("640", (640, 640)), ("416x640", (416, 640))]
)
def test_parse_input_size__takes_a_side_or_height_and_width(
    text: str | None, size: tuple[int, int] | None
) -> None:
    assert parse_input_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-640", "640x640x3", "0", "33", "640X640"])
def test_parse_input_size__refuses_other_texts(text: str) -> None:
    with pytest.raises(ValueError, match="input size"):
        parse_input_size(text)


def test_table__aligns_columns_without_trailing_spaces() -> None:
    assert table(("A", "B"), [("long", "x"), ("s", "")]) == "A     B\nlong  x\ns"
