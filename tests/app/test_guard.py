"""Who is answered, what is served to whom, and how much the temporary folder holds."""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.held_engine import HeldEngine

from dfosd_core.app.guard import Guard
from dfosd_core.app.limits import Limits
from dfosd_core.app.model_files import ModelFiles
from dfosd_core.app.runner import Request, Run
from dfosd_core.app.scratch import GRACE_S, KEEP_S, Scratch
from dfosd_core.app.server import App
from dfosd_core.errors import ImageFileError
from dfosd_core.settings import UpscaleSettings

Photo = Callable[..., Path]
UPLOAD = "/gradio_api/upload"


@pytest.fixture(scope="module")
def app() -> Iterator[tuple[App, str]]:
    made = App(engine=HeldEngine(), models=ModelFiles(), limits=Limits())
    try:
        yield made, urlsplit(made.start("127.0.0.1", None)).netloc
    finally:
        made.close()
        assert not made._folder.exists()


def ask(address: str, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body, named)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def upload(address: str, **headers: str) -> tuple[int, bytes]:
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nhello\r\n--x--\r\n'
    return ask(address, "POST", UPLOAD, body, Content_Type="multipart/form-data; boundary=x", **headers)


def test_own_page_is_answered(app: tuple[App, str]) -> None:
    address = app[1]
    assert ask(address, "GET", "/")[0] == 200
    assert ask(address, "GET", "/", Host=f"localhost:{address.split(':')[1]}")[0] == 200
    assert upload(address, Origin=f"http://{address}")[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "", "localhost.evil.x"]
)
def test_name_that_may_be_another_sites_is_refused(app: tuple[App, str], host: str) -> None:
    for method in ("GET", "POST"):
        status, body = ask(app[1], method, "/", Host=host)
        assert status == 403
        assert body.count(b"\n") == 0


@pytest.mark.parametrize("origin", ["http://evil.example", "https://evil.example:7860", "null", "http://127.0.0.1:1"])
def test_other_sites_page_cannot_upload(app: tuple[App, str], origin: str) -> None:
    assert upload(app[1], Origin=origin) == (403, b"Requests of other sites' pages are not answered.")


def test_names_of_this_machine_and_the_given_one_are_its_own() -> None:
    async def inner(*_: object) -> None: ...

    guard = Guard(inner, host="box.lan", make_room=lambda _: None)
    for host in ("box.lan", "BOX.lan:80", "localhost", "[::1]:7860", "192.168.1.2:7860", "a.localhost"):
        assert guard.refusal("GET", {"host": host}) == ""
    for host in ("", "box.lan.evil.example", "other.lan", "[::1", "x]:1"):
        assert "--host" in guard.refusal("GET", {"host": host})
    proxied = {"host": "127.0.0.1:7860", "origin": "https://site.example", "x-forwarded-host": "site.example"}
    assert guard.refusal("POST", proxied) == ""


def test_result_is_served_to_who_knows_its_folder_alone(app: tuple[App, str], photo: Photo) -> None:
    made, address = app
    assert made._panel is not None
    run = Run(made._panel.workplace, Request(settings=UpscaleSettings()), [photo()])
    run.start()
    run.join(60)
    (pair,) = run.now.pairs
    assert ask(address, "GET", f"/gradio_api/file={pair.result}") == (200, pair.result.read_bytes())
    served = pair.result.parent.parent
    for guess in (
        served,
        served / "photo_x4.png",
        served / ("0" * 32) / "photo_x4.png",
        pair.result.parent,
        pair.before,
        made._folder,
        Path(__file__),
        Path("/etc/passwd"),
        served / ".." / ".." / "previews" / pair.before.parent.name / pair.before.name,
    ):
        status, body = ask(address, "GET", f"/gradio_api/file={guess}")
        assert status in (403, 404), guess
        assert pair.result.parent.name.encode() not in body or pair.result.parent.name in str(guess)


def test_upload_without_room_is_refused_before_it_is_read(
    app: tuple[App, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, address = app
    monkeypatch.setattr(made._scratch, "most", 10)
    status, body = upload(address)
    assert status == 507
    assert body.startswith(b"There is no room: ")


def put(path: Path, size: int, age: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def test_old_files_go_and_young_ones_and_those_in_use_stay(tmp_path: Path) -> None:
    old = put(tmp_path / "gradio" / "a" / "old.png", 10, KEEP_S + 9)
    used = put(tmp_path / "gradio" / "b" / "used.png", 10, KEEP_S + 9)
    inside = put(tmp_path / "results" / "c" / "in.png", 10, KEEP_S + 9)
    young = put(tmp_path / "gradio" / "d" / "young.png", 10, 5)
    Scratch(folder=tmp_path, in_use=lambda: [used, inside.parent]).make_room()
    assert [path.exists() for path in (old, used, inside, young)] == [False, True, True, True]
    assert not old.parent.exists()


def test_total_is_held_by_removing_the_oldest_first(tmp_path: Path) -> None:
    paths = [put(tmp_path / "gradio" / str(i) / "x", 100, GRACE_S + 1000 - i) for i in range(10)]
    scratch = Scratch(folder=tmp_path, most=1000)
    scratch.make_room(250)
    assert [path.exists() for path in paths] == [False] * 3 + [True] * 7
    scratch.make_room(300)
    assert sum(path.exists() for path in paths) == 7


def test_what_cannot_be_removed_makes_no_room(tmp_path: Path) -> None:
    young = put(tmp_path / "gradio" / "a" / "x", 900, 5)
    with pytest.raises(ImageFileError, match="^There is no room: at most 0 GB .* wait ten minutes"):
        Scratch(folder=tmp_path, most=1000).make_room(200)
    assert young.exists()


def test_disk_keeps_some_room_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scratch, "_free", lambda _: 1_500_000_000)
    scratch = Scratch(folder=tmp_path)
    scratch.make_room(500_000_000)
    with pytest.raises(ImageFileError, match="There is no room: .* 1 GB of the disk stay free"):
        scratch.make_room(500_000_001)


def test_link_in_the_folder_is_not_followed(tmp_path: Path) -> None:
    outside = put(tmp_path / "outside" / "x", 10, KEEP_S + 9)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(outside.parent)
    os.utime(tmp_path / "in" / "link", (0, 0), follow_symlinks=False)
    Scratch(folder=tmp_path / "in").make_room()
    assert outside.exists()
    assert not (tmp_path / "in" / "link").is_symlink()
