"""A run to a hub folder and back: by its path, and over a fake hub on the loopback; the token is never shown."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml

import meanstep as ms
from meanstep.program.console import UserError
from meanstep.program.export import bare
from meanstep.program.export.push import exported
from meanstep.program.runs import hub, networks, saved
from meanstep.program.training.pretrained import start_from

from .test_export_suite import latents

pytest.importorskip("huggingface_hub", reason="the hub needs huggingface_hub: pip install 'meanstep[hub]'")
TOKEN = "hf_thisIsNoToken0123456789"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload and a download of small files ask for; `files` by repository, `asked` with their headers.

    `private`: the repositories that are; one that is there keeps its visibility when it is asked for again. `messages`: of the commits.
    """

    files: dict[str, dict[str, bytes]]
    private: set[str]
    messages: list[str]
    asked: list[tuple[str, str, str]]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.asked.append((self.command, self.path, self.headers.get("authorization", "")))
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, found: object, code: int = 200) -> None:
        self._answer(code, json.dumps(found).encode(), Content_Type="application/json")

    def do_POST(self) -> None:
        size = self.headers.get("content-length")
        body = self.rfile.read(int(size)) if size else self._chunks()
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            return self._json({"error": f"Invalid token {TOKEN}"}, 401)
        if self.path == "/api/repos/create":
            if "owner/name" in self.files:
                return self._json({"error": "exists", "url": f"http://{self.headers['host']}/owner/name"}, 409)
            self.files["owner/name"] = {}
            asked = json.loads(body)  # of the library before 2 and since
            self.private.update(["owner/name"] if asked.get("private") or asked.get("visibility") == "private" else [])
            return self._json({"url": f"http://{self.headers['host']}/owner/name", "id": "owner/name", "name": "owner/name"})
        if "/preupload/" in self.path:
            names = [f["path"] for f in json.loads(body)["files"]]
            return self._json({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        if "/commit/" in self.path:
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "header":
                    self.messages.append(line["value"]["summary"])
                if line["key"] == "file":
                    self.files["owner/name"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self._json(
                {"commitUrl": f"http://{self.headers['host']}/owner/name/commit/" + "a" * 40, "commitOid": "a" * 40, "hookOutput": ""}
            )
        return self._json({})

    def _chunks(self) -> bytes:
        found = b""
        while n := int(self.rfile.readline(), 16):
            found += self.rfile.read(n)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def do_GET(self) -> None:
        files = self.files.get("owner/name", {})
        if "/resolve/" in self.path:
            data = files[self.path.split("/", 5)[5].partition("?")[0]]
            return self._answer(200, data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit="a" * 40)
        if not self.path.startswith("/api/models/owner/name"):
            return self._json({"error": "Repository not found"}, 404)
        if "/tree/" in self.path:
            return self._json([{"type": "file", "path": n, "size": len(d), "oid": "b" * 40} for n, d in files.items()])
        siblings, private = [{"rfilename": n, "size": len(d)} for n, d in files.items()], "owner/name" in self.private
        return self._json({"id": "owner/name", "sha": "a" * 40, "private": private, "siblings": siblings})

    do_HEAD = do_GET


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    kind = type("Own", (Hub,), {"files": {}, "private": set(), "messages": [], "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("MEANSTEP_CACHE", str(tmp_path / "user"))
    hub._copied.cache_clear()
    yield kind
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_hub_folder_is_read_back_by_every_reader(exportable, ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = exportable()
    record = ms.export(run, to="hub", out=tmp_path / "hub")
    assert record["difference"]["largest"] == 0 and record["difference"]["bytes_that_differ"] == 0
    assert torch.equal(ms.load(run).sample(range(5)), ms.load(tmp_path / "hub").sample(range(5)))
    assert ran("sample", tmp_path / "hub", "--out", tmp_path / "a.png", "--seeds", "0:4") == 0
    assert ran("sample", run, "--out", tmp_path / "b.png", "--seeds", "0:4") == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    text = (tmp_path / "hub" / "README.md").read_text()
    matter = yaml.safe_load(text.split("---")[1])
    assert matter["library_name"] == "meanstep" and "meanflow" in matter["tags"] and "Not evaluated" in text
    assert str(tmp_path) not in "".join(p.read_text(errors="replace") for p in (tmp_path / "hub").iterdir()), "a path of this machine"


@pytest.mark.parametrize("learns", ["average", "instantaneous"])
def test_a_card_promises_one_evaluation_where_the_network_jumps(learns: str, exportable, tmp_path: Path):
    ms.export(exportable(learns=learns), to="hub", out=tmp_path / "hub")
    text = (tmp_path / "hub" / "README.md").read_text()
    assert ("in one evaluation of its network" in text) == ("one-step-generation" in text) == (learns == "average")


def test_a_card_has_a_table_for_each_reference_with_all_that_was_measured(exportable, tmp_path: Path):
    run = exportable()
    about = {"kind": "cell", "seen": 128, "average": "0.9", "steps": 1, "guidance": 1.0, "count": 64, "seed": 0, "distance": "FD-pixels"}
    about |= {"extractor": "pixels", "reference": "shapes, 30 images", "reference_digest": "a"}
    frechet, kid = ({"metrics": [name], "values": {name: 0.5, "count": 64}} for name in ("frechet", "kid"))
    held = [about | frechet, about | kid, about | kid | {"reference": "others, 9 images", "reference_digest": "b"}]
    floor = about | frechet | {"kind": "floor", "data": "test"}
    held += [floor | {"values": {"frechet": x, "count": n}, "count": n} for n, x in ((64, 0.25), (8, 4.0))]  # that of 8 is of no cell
    (run / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    ms.export(run, to="hub", out=tmp_path / "hub")
    lines = (tmp_path / "hub" / "README.md").read_text().splitlines()
    first, second = (i for i, line in enumerate(lines) if line.startswith("| seen"))
    assert [lines[i].split(" | ")[4:-1] for i in (first, first + 2)] == [["FD-pixels", "kernel x 1000", "count"], ["0.5", "500", "64"]]
    assert lines[first + 3].split(" | ")[4] == "0.25" and not lines[first + 4]
    assert "shapes, 30 images" in lines[first + 5] and "FD-pixels" not in lines[second] and "others, 9 images" in lines[second + 4]


def test_a_run_of_one_class_goes_to_the_hub(exportable, ran, tmp_path: Path):
    description = {"network": "dit", "options": {"size": 8, "channels": 1, "patch": 4, "width": 16, "depth": 1, "heads": 2, "classes": 1}}
    run = exportable(classes=1, description=description)
    assert ran("export", str(run), "--to", "hub", "--out", str(tmp_path / "one")) == 0
    assert json.loads((tmp_path / "one" / "config.json").read_text())


def test_a_hub_folder_knows_all_that_its_runs_method_taught(exportable, tmp_path: Path):
    """Fresh noise is refused for a coupled run, and so it is for its folder; what was hidden is not guessed."""
    run = exportable()
    told = {"recipe": "meanflow", "learns": "average", "path": "linear", "coupling": f"pairs:{tmp_path / 'pairs.npz'}", "dropout": 0.25}
    (run / "method.json").write_text(json.dumps(told | {"numbers": True, "rows": "instant", "scales": []}))
    ms.export(run, to="hub", out=tmp_path / "hub")
    model = ms.load(tmp_path / "hub")
    assert model.facts == replace(ms.load(run).facts, coupling="pairs:pairs.npz")
    for folder in (run, tmp_path / "hub"):
        with pytest.raises(UserError, match="trained under the coupling pairs:"):
            ms.load(folder, sampler="renoise")


def test_no_entry_of_a_hub_folder_is_a_path_of_this_machine(exportable, tmp_path: Path):
    files = {name: f"{tmp_path / 'secret' / name}" for name in ("rows.npz", "e.npy", "sit.safetensors", "net.safetensors")}
    (tmp_path / "secret").mkdir()
    run = latents(exportable, tmp_path / "secret")
    (run / "autoencoder.safetensors").unlink()  # of a cache that was encoded elsewhere
    autoencoder = saved.manifest(run).autoencoder
    held = saved.held(run)
    changed = replace(
        held,
        data=replace(held.data, source=files["rows.npz"], pair=f"{files['rows.npz']}:low"),
        network=replace(
            held.network, start=f"sit:{files['sit.safetensors']}", options={"model": "B/2", "from": [files["net.safetensors"]]}
        ),
        method=replace(held.method, coupling=f"pairs:{files['e.npy']}", options={"read": {"file": f"kind:{files['net.safetensors']}"}}),
        run=replace(held.run, extractor=f"timm:resnet18:{files['net.safetensors']}"),
    )
    (run / "config.yaml").write_text(saved.text(changed))
    ms.export(run, to="hub", out=tmp_path / "hub", autoencoder=autoencoder)
    assert "secret" not in "".join(p.read_text(errors="replace") for p in (tmp_path / "hub").iterdir())
    found, data = saved.held(tmp_path / "hub"), saved.manifest(tmp_path / "hub")
    assert autoencoder.startswith("taesd:/") and data.autoencoder == "taesd:taesd.safetensors"
    assert (found.data.source, found.data.pair) == ("shapes", "rows.npz:low") and found.run.extractor == "timm:resnet18:net.safetensors"
    assert found.network.start == "sit:sit.safetensors" and found.network.options == {"model": "B/2", "from": ["net.safetensors"]}
    assert found.method.coupling == "pairs:e.npy" and found.method.options == {"read": {"file": "kind:net.safetensors"}}
    again = ms.load(tmp_path / "hub", autoencoder=autoencoder).sample(2)
    assert torch.equal(again, ms.load(run, autoencoder=autoencoder).sample(2))


def test_latents_go_to_the_hub_when_their_autoencoder_has_moved(exportable, tmp_path: Path):
    run, new = latents(exportable, tmp_path), tmp_path / "moved.safetensors"
    (run / "autoencoder.safetensors").unlink()
    (tmp_path / "taesd.safetensors").rename(new)
    with pytest.raises(UserError, match="leave --no-decode out"):
        ms.export(run, to="hub", out=tmp_path / "hub", autoencoder=f"taesd:{new}", decode=False)
    ms.export(run, to="hub", out=tmp_path / "hub", autoencoder=f"taesd:{new}")
    again = ms.load(tmp_path / "hub", autoencoder=f"taesd:{new}").sample(2)
    assert torch.equal(again, ms.load(run, autoencoder=f"taesd:{new}").sample(2))
    card = (tmp_path / "hub" / "README.md").read_text()
    assert 'autoencoder="taesd:taesd.safetensors")' in card and "--autoencoder taesd:taesd.safetensors`" in card


@pytest.mark.parametrize(
    ("word", "left"),
    [
        ("hub:owner/name:config", "hub:owner/name:config"),
        ("kl:owner/name", "kl:owner/name"),
        ("timm:hf-hub:owner/name", "timm:hf-hub:owner/name"),
        ("optimal-transport", "optimal-transport"),
        ("pairs:runs/e.npy", "pairs:e.npy"),
        ("~/rows.npz:x", "rows.npz:x"),
        ("/a:b/rows.npz", "rows.npz"),
    ],
)
def test_a_place_keeps_its_kind_and_its_name(word: str, left: str):
    assert bare.place(word) == left


def test_half_precision_and_damage(exportable, ran, tmp_path: Path):
    run = exportable()
    record = ms.export(run, to="hub", out=tmp_path / "hub", half=True)
    assert 0 < record["difference"]["half"] < 2e-2 and record["difference"]["largest"] == 0
    (tmp_path / "hub" / "model.safetensors").write_bytes((tmp_path / "hub" / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(UserError, match=r"model\.safetensors has"):
        ms.load(tmp_path / "hub")


def test_push_and_load_over_a_fake_hub(exportable, ran, tmp_path: Path, fake: type[Hub], capsys: pytest.CaptureFixture[str], monkeypatch):
    run = exportable()
    ms.export(run, to="hub", out=tmp_path / "hub")
    assert ran("push", tmp_path / "hub", "owner/name") == 0
    assert {"model.safetensors", "README.md", "network.json", "config.json"} <= set(fake.files["owner/name"])
    assert any(head == f"Bearer {TOKEN}" for _, _, head in fake.asked)
    assert "read it: meanstep sample hub:owner/name" in capsys.readouterr().out
    assert torch.equal(ms.load("hub:owner/name").sample(range(3)), ms.load(run).sample(range(3)))
    assert ran("sample", "hub:owner/name", "--out", tmp_path / "a.png") == 0
    net, manifest = networks.made(json.loads(fake.files["owner/name"]["network.json"]), 1), ms.load(run).manifest
    assert "weights raw" in start_from(net, "hub:owner/name", manifest)[0]
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), ms.load(run).field.parameters(), strict=True))
    monkeypatch.setenv("HF_TOKEN", TOKEN + "other")
    assert ran("push", tmp_path / "hub", "owner/name") == 2
    printed = "".join(capsys.readouterr())
    assert TOKEN not in printed and "did not take owner/name" in printed
    with pytest.raises(UserError, match="cannot fetch hub:owner/absent"):
        ms.load("hub:owner/absent")


def test_nothing_is_uploaded_as_private_where_others_see_it(exportable, ran, tmp_path: Path, fake: type[Hub], capsys):
    """A repository that is there keeps its visibility, whatever is asked for when it is made again."""
    ms.export(exportable(), to="hub", out=tmp_path / "hub")
    fake.files["owner/name"] = {}
    assert ran("push", tmp_path / "hub", "owner/name", "--private") == 2
    assert "--private: owner/name is there already and others see it" in capsys.readouterr().err
    assert fake.files["owner/name"] == {} and ran("push", tmp_path / "hub", "owner/name") == 0
    del fake.files["owner/name"]
    for _ in range(2):
        assert ran("push", tmp_path / "hub", "owner/name", "--private") == 0
    assert fake.private == {"owner/name"} and "model.safetensors" in fake.files["owner/name"]


class Turned(torch.nn.Module):
    """A field of points."""

    def forward(self, z, r, t, y=None):
        return (t - r)[:, None] * z.flip(-1)


def test_a_network_from_python_is_pushed_by_its_name(ran, tmp_path: Path, fake: type[Hub], capsys: pytest.CaptureFixture[str]):
    """Its export has no samples seen."""
    pytest.importorskip("onnxscript", reason="needs pip install 'meanstep[export]'")
    ms.export(Turned(), to="onnx", out=tmp_path / "onnx", shape=(2,))
    assert ran("push", tmp_path / "onnx", "owner/name") == 0
    assert {"model.onnx", "card.json", "README.md"} <= set(fake.files["owner/name"])
    assert fake.messages == ["Turned"] and "meanstep sample" not in capsys.readouterr().out


def test_what_cannot_be_pushed(exportable, ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = exportable()
    for folder, name in ((run, "owner/name"), (tmp_path, "noowner"), (tmp_path, "a/../b")):
        assert ran("push", folder, name) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and "was not made by meanstep export" in lines[0] and all("owner/name" in line for line in lines[1:])


CARDS = (
    *("", "[" * 50_000, "{}", "3", '{"target": "hub", "files": 3}', '{"target": "hub", "files": [3]}', '{"target": "hub", "files": []}'),
    '{"target": "hub", "files": [], "name": "a", "samples seen": "many"}',
)


@pytest.mark.parametrize("text", CARDS, ids=lambda text: text[:60])
def test_a_card_of_another_form_is_no_export(text: str, tmp_path: Path):
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(UserError, match="was not made by meanstep export"):
        exported(tmp_path)
