"""The page of a run on the loopback: it follows the records, and nothing else of the folder can be had."""

import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from meanstep.program.pages import look
from meanstep.program.watch.command import Live
from meanstep.program.watch.server import HOST, scripted, serving

from .conftest import code
from .test_run_report import Plan, folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """With small figures, which take less time."""
    monkeypatch.setattr(look, "SCALE", 0.5)


@pytest.fixture
def port() -> Iterator[int]:
    server = serving(lambda: ("v1", "<body><p>page</p></body>"), 0, 0.5)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def asked(port: int, path: str, host: str = "") -> tuple[int, str]:
    client = http.client.HTTPConnection(HOST, port, timeout=10)
    client.request("GET", path, headers={"Host": host} if host else {})
    answer = client.getresponse()
    return answer.status, answer.read().decode()


def test_the_page_and_its_version_are_served_and_nothing_else(port: int):
    status, text = asked(port, "/")
    assert status == 200 and "<p>page</p><script>" in text.replace("\n", "") and '"v1"' in text and text.endswith("</body>")
    assert asked(port, "/version") == (200, "v1")
    for path in ("/config.yaml", "/../config.yaml", "//etc/passwd", "/%2e%2e/env.json", "/report.html", "/version/", "/?x"):
        assert asked(port, path)[0] == 404, path


def test_another_name_of_this_machine_is_refused(port: int):
    assert asked(port, "/", "example.com")[0] == 403 and asked(port, "/", f"localhost:{port}")[0] == 200


def test_a_port_in_use_is_one_line_with_a_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    here = folder(tmp_path / "run", Plan(steps=1))
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        number = taken.getsockname()[1]
        assert code("watch", here, "--port", number) == 2
    told = capsys.readouterr().err
    assert f"--port {number}: " in told and "leave it out for a free one" in told and told.count("\n") == 1
    assert not (here / "report.html").exists()


def test_the_page_follows_the_records_and_outlives_a_damaged_one(tmp_path: Path):
    here = folder(tmp_path / "run", Plan(steps=5, of=40))
    whole = (here / "records.jsonl").read_text()
    live, told, versions = Live(here), list[str](), list[str]()
    live.build()
    line = json.dumps({"kind": "train", "seen": 777, "residual_gap": 0.1}) + "\n"
    turns = iter(["", whole + line, "damage\n" + whole, "damage\nonce more\n" + whole, whole + line + line.replace("777", "888"), None])

    def wait(_: float) -> None:
        versions.append(live.version)
        text = next(turns)
        if text is None:
            raise KeyboardInterrupt
        if text:
            (here / "records.jsonl").write_text(text)

    with pytest.raises(KeyboardInterrupt):
        live.follow(1.0, told.append, wait)
    assert [a == b for a, b in itertools.pairwise(versions)] == [True, False, True, True, False]
    assert len(told) == 1 and "the page stays as it was" in told[0] and "888 of 4,000" in live.text


def test_once_writes_the_page_and_only_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    here = folder(tmp_path / "run", Plan(steps=1))
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert code("watch", here, "--once") == 0 and str(here / "report.html") in capsys.readouterr().out
    after = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert after.pop(here / "report.html") and after == before
    assert code("watch", tmp_path) == 2 and "holds no run" in capsys.readouterr().err


def test_the_file_itself_asks_for_nothing(tmp_path: Path):
    here = folder(tmp_path / "run", Plan(steps=1))
    live = Live(here)
    live.build()
    assert "fetch(" not in (here / "report.html").read_text() and "fetch(" in scripted(live.text, "v", 1.0)


def test_an_interrupt_ends_it_with_one_line(tmp_path: Path):
    here = folder(tmp_path / "run", Plan(steps=1))
    words = [sys.executable, "-u", "-m", "meanstep", "watch", str(here), "--every", "0.1"]
    made = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    assert made.stdout is not None
    address = made.stdout.readline()
    assert asked(int(address.split(":")[2].split("/")[0]), "/")[0] == 200
    made.send_signal(signal.SIGINT)
    out, err = made.communicate(timeout=30)
    assert (made.returncode, out, err) == (0, "ended: the run itself goes on\n", "")
