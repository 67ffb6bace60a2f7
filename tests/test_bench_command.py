"""`rtmdet bench` as people and programs run it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from service.http_api.app import create_app
from service.load_testing.exchanges import Answer, Exchange
from service.load_testing.objectives import SearchResult, parse_objective
from service.load_testing.plot import draw, require_format, write_plot
from service.load_testing.report import Bench, bench_json
from service.load_testing.statistics import RunFigures, figures_of
from service.load_testing.tables import print_bench
from service.settings import Settings
from service.wiring import build_detector
from tests import load_targets
from tests.conftest import PROJECT
from tests.load_targets import Target, running
from tests.repositories import write_model
from tests.servers import running_server


def run(*parts: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "rtmdet", "bench", *map(str, parts)],
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
        timeout=120,
    )


SHORT = ("--seconds", "0.5", "--warm-up", "0.1", "--pause", "0", "--max-lag", "10s")


def test_bench__of_our_server(tmp_path: Path) -> None:
    write_model(tmp_path / "repository", "boxes")
    settings = Settings(model_repository=tmp_path / "repository", runtime="fake")
    app = create_app(build_detector(settings), max_buffered_bytes=10**8)
    report, plot = tmp_path / "bench.json", tmp_path / "bench.html"
    with running_server(app) as client:
        done = run(
            *(f"{client.base_url}/detect", "--rates", "20,40", "--deadline", "10s", *SHORT),
            *("--send-timeout-ms", "--model", "boxes", "--option", "max_detections=3"),
            *("--json", report, "--plot", plot, "--arrivals", "uniform"),
        )
    assert done.returncode == 0, done.stderr
    for title in ("REQUESTS", "LATENCY, ms", "MEAN TIME, ms", "GENERATOR, ms", "postprocess"):
        assert title in done.stdout
    found = json.loads(report.read_text())
    assert [each["counts"]["in_time"] for each in found["runs"]] == [10, 20]
    assert found["target"]["options"] == {
        "model": "boxes",
        "timeout_ms": "10000",
        "max_detections": "3",
    }
    stages = {"decode", "queue", "infer", "postprocess", "rest"}
    assert set(found["runs"][0]["stages_ms"]) >= stages
    assert "<svg" in plot.read_text()


def test_bench__of_another_server_keeps_keys_to_itself(tmp_path: Path) -> None:
    picture = tmp_path / "street.png"
    picture.write_bytes(b"as it is")
    key, token = "k3y-0f-mine", "Bearer t0ken"
    with running(load_targets.answers) as target:
        done = run(
            *(f"http://127.0.0.1:{target.port}/predict", picture, "--rate", "20", *SHORT),
            *("--body", "multipart", "--field", "file", "--api-key", key, "--json", "-"),
            *("--header", f"Authorization: {token}", "--method", "put"),
        )
        head, body = target.requests[0]
    assert done.returncode == 0, done.stderr
    assert head.startswith(b"PUT /predict HTTP/1.1\r\n")
    assert f"X-API-Key: {key}".encode() in head
    assert f"Authorization: {token}".encode() in head
    assert b'name="file"; filename="street.png"' in body
    # Nothing but JSON, and in it nobody's keys.
    report = json.loads(done.stdout)
    assert report["format"] == "rtmdet-bench/1"
    assert key not in done.stdout + done.stderr
    assert token not in done.stdout + done.stderr
    assert "street.png" in report["command"]


@pytest.mark.parametrize(
    ("form", "resource", "is_told"),
    [
        ("http://127.0.0.1:{}", b"/detect", True),
        ("http://127.0.0.1:{}/", b"/detect", True),
        ("127.0.0.1:{}", b"/detect", True),
        ("127.0.0.1:{}/predict", b"/predict", False),
        ("http://127.0.0.1:{}/?", b"/", False),
    ],
)
def test_bench__url_without_a_path_is_that_of_our_server(
    form: str, resource: bytes, is_told: bool
) -> None:
    with running(load_targets.answers) as target:
        url = form.format(target.port)
        done = run(url, "--rate", "20", *SHORT)
        head, _ = target.requests[0]
    assert done.returncode == 0, done.stderr
    assert head.startswith(b"POST " + resource + b" HTTP/1.1\r\n")
    assert (f"sending to http://127.0.0.1:{target.port}/detect" in done.stderr) == is_told


def test_bench__nobody_there_is_one_line() -> None:
    done = run("http://127.0.0.1:9/detect", *SHORT)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("rtmdet: cannot connect to 127.0.0.1:9: connection refused")


def test_bench__everything_refused_is_no_result() -> None:
    with running(load_targets.refuses) as target:
        done = run(f"http://127.0.0.1:{target.port}/detect", "--rate", "20", *SHORT)
    assert done.returncode == 1
    assert "refused" in done.stdout


def test_bench__a_wrong_request_is_one_line() -> None:
    async def answer(target: Target, number: int) -> bytes:
        return b"HTTP/1.1 422 X\r\nContent-Length: 14\r\n\r\nunknown option"

    with running(answer) as target:
        done = run(f"http://127.0.0.1:{target.port}/detect", *SHORT)
    assert (done.returncode, done.stderr) == (2, "rtmdet: the server answers 422: unknown option\n")


def test_bench__a_missing_key_is_told_with_the_option_that_gives_it() -> None:
    async def answer(target: Target, number: int) -> bytes:
        return b"HTTP/1.1 401 X\r\nContent-Length: 9\r\n\r\nwho comes"

    with running(answer) as target:
        done = run(f"http://127.0.0.1:{target.port}/detect", *SHORT)
    assert (done.returncode, done.stderr) == (
        2,
        "rtmdet: the server answers 401: who comes; give a key by --api-key or RTMDET_API_KEY\n",
    )


def test_bench__objective_on_a_server_that_keeps_too_little() -> None:
    num_taken = 1 + 2 * 10

    async def answer(target: Target, number: int) -> bytes:
        return load_targets.OK if number < num_taken else load_targets.BUSY

    with running(answer) as target:
        done = run(
            *(f"http://127.0.0.1:{target.port}/detect", "--rate", "40", "--slo", "goodput=0.9"),
            *("--arrivals", "uniform", "--seconds", "0.25", "--warm-up", "0", "--pause", "0"),
            *("--max-lag", "10s"),
        )
    assert done.returncode == 0, done.stderr
    assert "goodput=0.9: kept at 40/s in 2 runs; broken at 41.7" in done.stdout
    assert "0 of 20 requests missed it there; with 95% confidence at most 13.91%" in done.stdout


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (("http://a/", "http://b/"), "one server at a time"),
        (("a:1", "b:2"), "http://a:1, http://b:2: one server at a time"),
        (("--rate", "0"), "--rate 0: must be above 0"),
        (("--rates", "5,x"), "--rates 5,x: write numbers by commas"),
        (("--deadline", "250"), "'250' is no time such as 250ms"),
        (("--send-timeout-ms",), "give a --deadline as well"),
        (("--slo", "p99"), "write it as p99=50ms"),
        (("--arrivals", "random"), "choose poisson, uniform or bursty"),
        (("--body", "xml"), "choose raw, multipart or json"),
        (("--plot", "a.pdf"), "ends with .svg, .html, .png"),
        (("--json", "no-such-folder/a.json"), "there is no folder no-such-folder"),
        (("--picture-size", "big"), "write WIDTHxHEIGHT"),
        (("--header", "nothing"), "a header is written 'Name: value'"),
        (("no-such-picture.jpg",), "No such file"),
    ],
)
def test_bench__mistakes_are_told_before_anything_is_sent(
    parts: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process: a dozen starts of an interpreter would take half a minute."""
    import typer

    from service.commands.bench import bench

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(bench)
    with pytest.raises((ValueError, OSError), match=says.replace("(", r"\(")):
        app(list(parts), standalone_mode=False)
    assert capsys.readouterr().out == ""


def figures(rate_per_s: float, *, max_lag_s: float = 1.0, deadline_s: float = 0.25) -> RunFigures:
    """A run of a server that slows down, refuses, gives up and fails with the rate."""
    rng = np.random.default_rng(int(rate_per_s))
    answers = [Answer(200, server_timing=b"infer;dur=5"), Answer(503), Answer(504), Answer(500)]
    exchanges: list[Exchange] = []
    for at_s in np.linspace(0, 2, int(2 * rate_per_s)).tolist():
        answer = answers[int(rng.choice(4, p=[0.7, 0.1, 0.1, 0.1]))]
        latency_s = 0.001 * rate_per_s * rng.lognormal(0, 0.5)
        exchanges.append(Exchange(at_s, at_s + 0.0005, at_s + latency_s, answer))
    return figures_of(
        exchanges, rate_per_s=rate_per_s, seconds=2, deadline_s=deadline_s, max_lag_s=max_lag_s
    )


def bench_of(*runs: RunFigures, search: SearchResult | None = None) -> Bench:
    return Bench(
        about={"version": "1", "started": "2026-01-01T00:00:00+00:00", "command": "rtmdet bench"},
        target={"url": "http://a<b>/", "method": "POST"},
        plan={
            "arrivals": "poisson",
            "seconds": 2.0,
            "warm_up_s": 0.0,
            "deadline_ms": 250.0,
            "seed": 0,
        },
        runs=runs,
        search=search,
    )


INVALID = figures(160, max_lag_s=1e-6)


def test_report__of_an_invalid_run_has_no_figures_that_could_be_taken_for_the_servers() -> None:
    bench = bench_of(figures(20), INVALID)
    assert not bench.is_sound
    good, bad = json.loads(json.dumps(bench_json(bench)))["runs"]
    keys = ("latency_ms", "service_ms", "goodput_per_s", "goodput_share")
    assert all(good[key] is not None for key in keys)
    assert all(bad[key] is None for key in keys)
    assert (good["valid"], bad["valid"]) == (True, False)
    assert "fell behind" in bad["problems"][0]


def test_report__keys_are_these() -> None:
    """Programs read them: none may change by accident."""
    found = SearchResult([parse_objective("p50=1s")], 20, "broken at 21/s", [(figures(20), "kept")])
    document = bench_json(bench_of(figures(20), search=found))
    assert set(document) == {
        *("format", "version", "started", "command", "target", "plan", "runs", "search")
    }
    runs = document["runs"]
    assert isinstance(runs, list)
    assert set(runs[0]) == {
        *("rate_per_s", "offered_per_s", "valid", "problems", "counts", "statuses", "failures"),
        *("goodput_per_s", "goodput_share", "latency_ms", "service_ms", "lag_ms", "stages_ms"),
        *("histogram", "cpu_ms_per_request"),
    }
    assert set(runs[0]["latency_ms"]) == {"p50", "p90", "p95", "p99", "p99.9", "mean", "max"}
    assert set(runs[0]["counts"]) == {
        *("scheduled", "sent", "unsent", "answered", "in_time", "late", "refused", "expired"),
        "failed",
    }
    assert document["search"] == {
        "objectives": ["p50=1s"],
        "rate_per_s": 20,
        "end": "broken at 21/s",
        "verdicts": ["kept"],
        "evidence": {"p50=1s": document["search"]["evidence"]["p50=1s"]},
    }


def test_tables__an_invalid_run_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    print_bench(bench_of(figures(20), INVALID))
    out = capsys.readouterr().out
    row = next(line for line in out.split("LATENCY")[1].splitlines() if line.startswith("160/s"))
    assert set(row.split()) == {"160/s", "invalid"}
    assert "160/s INVALID: the generator fell behind" in out


SVG = "{http://www.w3.org/2000/svg}"

BENCHES = {
    "several rates": bench_of(*map(figures, (5, 10, 20, 40)), INVALID),
    "one rate": bench_of(figures(20)),
    "nothing valid": bench_of(INVALID),
    "nothing answered": bench_of(figures_of([], rate_per_s=1, seconds=1)),
}


@pytest.mark.parametrize("bench", BENCHES.values(), ids=BENCHES.keys())
def test_plot__everything_lies_within(bench: Bench, tmp_path: Path) -> None:
    drawing = draw(bench)
    write_plot(bench, tmp_path / "plot.svg")
    root = ElementTree.parse(tmp_path / "plot.svg").getroot()
    assert root.get("viewBox") == f"0 0 {drawing.width} {drawing.height}"
    for circle in root.iter(f"{SVG}circle"):
        assert 0 < float(circle.get("cx", "nan")) < drawing.width
        assert 0 < float(circle.get("cy", "nan")) < drawing.height
    for text in root.iter(f"{SVG}text"):
        assert 0 < float(text.get("x", "nan")) < drawing.width
        assert 0 < float(text.get("y", "nan")) < drawing.height


def texts(bench: Bench, path: Path) -> list[str]:
    write_plot(bench, path)
    return [each.text or "" for each in ElementTree.parse(path).getroot().iter(f"{SVG}text")]


def test_plot__of_several_rates_has_axes_units_and_a_legend(tmp_path: Path) -> None:
    found = texts(BENCHES["several rates"], tmp_path / "plot.svg")
    wanted = {"offered rate, requests/s", "latency, ms", "requests/s", "deadline 250 ms"}
    assert wanted <= set(found)
    assert {"p50", "p99.9", "in time", "offered", "refused", "expired", "failed"} <= set(found)
    assert any("invalid, not shown: 160/s" in each for each in found)
    assert "rtmdet bench: POST http://a<b>/" in found


def test_plot__of_one_rate_has_percentiles_and_the_course(tmp_path: Path) -> None:
    found = texts(BENCHES["one rate"], tmp_path / "plot.svg")
    assert {"p50", "p90", "time since the start, s", "answered", "failed"} <= set(found)


def test_plot__as_a_picture(tmp_path: Path) -> None:
    bench = BENCHES["several rates"]
    write_plot(bench, tmp_path / "plot.png")
    pixels = cv2.imread(str(tmp_path / "plot.png"))
    drawing = draw(bench)
    assert pixels is not None
    assert pixels.shape == (2 * drawing.height, 2 * drawing.width, 3)
    # Dark on light, with colours.
    assert np.median(pixels) == 255
    assert pixels.min() < 60
    assert (pixels.max(axis=2).astype(int) - pixels.min(axis=2)).max() > 100


def test_plot__in_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\.svg, \.html, \.png"):
        require_format(Path("plot.pdf"))


def test_search__that_kept_nothing_is_no_result() -> None:
    search = SearchResult([parse_objective("p50=1ms")], None, "broken even at 0.1/s", [])
    assert not bench_of(figures(20), search=search).is_sound
    assert bench_of(search=replace(search, rate_per_s=10)).is_sound
