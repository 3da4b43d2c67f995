"""The page behind its address: many requests at once, malformed ones, what the command refuses, how it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.demo import ask, malformed, start, storm
from latdiff import cli
from latdiff.demo import serving
from latdiff.errors import UserError


def test_none_of_many_requests_is_lost_and_malformed_ones_are_told(served):
    found = storm(served, "tiny", {"sentiment": {"positive": 1}}, requests=40, steps=2)
    assert found["said"] == []
    assert (found["answered"], found["mixed_up"]) == (40, 0)
    assert (found["malformed_told"], found["malformed_lost"]) == (len(malformed("tiny")), 0)
    assert ask(served, ["tiny", {}, 2, "", 0, 1, ""])[0] == "texts"


def test_beyond_the_queue_a_request_is_told_so(talking, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(serving, "WAITING", 3)
    page, address = serving.start("tiny", talking)
    try:
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda seed: ask(address, ["tiny", {}, 40, "", seed, 8, ""]), range(12)))
    finally:
        page.close(verbose=False)
    assert {kind for kind, _ in answers} == {"texts", "told"}
    assert all("Queue is full" in said for kind, said in answers if kind == "told")


def test_only_uploaded_files_are_read(served, tmp_path):
    """The button that fits a head, pressed by a program that names a file of its own choice."""
    file = tmp_path / "other.csv"
    file.write_text("text,hush\na,b\n", encoding="utf-8")
    with urllib.request.urlopen(f"{served}config") as answer:
        (button,) = [one["id"] for one in json.load(answer)["dependencies"] if one["api_name"] == "_fit"]
    named = str(file)
    for given in ({"path": named}, {"path": named, "meta": {"_type": "gradio.FileData"}}, named):
        data = ["tiny", None, "tone", "", given, "text", "label"]
        body = {"data": data, "fn_index": button, "session_hash": f"s{len(str(given))}"}
        request = urllib.request.Request(f"{served}gradio_api/queue/join", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        urllib.request.urlopen(request).close()
        with urllib.request.urlopen(f"{served}gradio_api/queue/data?session_hash={body['session_hash']}") as stream:
            said = stream.read().decode()
        assert "process_completed" in said and "hush" not in said


def test_the_snippet_of_its_page_runs_as_written(served):
    page = (Path(__file__).parents[2] / "docs" / "demo.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(snippet.replace("http://127.0.0.1:7860", served).replace('"storyworld"', '"tiny"'), names)
    assert len(names["texts"]) == 2


def test_the_page_is_for_this_machine_asks_nobody_and_serves_no_files(served, talking):
    with urllib.request.urlopen(f"{served}config") as answer:
        config = json.load(answer)
    assert config["analytics_enabled"] is False and served.startswith("http://127.0.0.1:")
    for path in (talking / "model_index.json", "/etc/passwd"):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{served}gradio_api/file={path}")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_it_says_where_it_is_also_behind_a_proxy_and_ends_quietly(talking, number, status, monkeypatch):
    with monkeypatch.context() as patch:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            patch.setenv(name, "http://127.0.0.1:9")
        for name in ("no_proxy", "NO_PROXY"):
            patch.setenv(name, "example.org")
        server, address = start(str(talking))
    try:
        assert ask(address, [str(talking), {}, 2, "", 0, 1, ""])[0] == "texts"
    finally:
        server.send_signal(number)
        rest, _ = server.communicate(timeout=60)
    assert server.returncode == status and rest.strip() == ""


@pytest.mark.parametrize(("number", "raised", "status"), [
    (signal.SIGINT, KeyboardInterrupt, None), (signal.SIGTERM, SystemExit, 143)])
def test_signals_while_it_starts_end_it_as_they_end_other_commands(number, raised, status, talking, monkeypatch):
    monkeypatch.setattr(serving, "start", lambda *_: signal.raise_signal(number))
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # which `serve` sets
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(raised) as ended:
            serving.serve("tiny", talking)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert getattr(ended.value, "code", None) == status


@pytest.mark.parametrize(("before", "after"), [("", "127.0.0.1"), ("a.org,b.org", "a.org,b.org,127.0.0.1"),
                                               ("*", "*"), ("127.0.0.1", "127.0.0.1")])
def test_what_needs_no_proxy_is_added_to(before, after, monkeypatch):
    monkeypatch.setenv("NO_PROXY", before)
    monkeypatch.setenv("no_proxy", "")
    serving.no_proxy_for_loopback()
    assert os.environ["NO_PROXY"] == after


def test_a_page_that_cannot_be_served_is_a_sentence(talking, monkeypatch):
    import gradio

    def fails(*_, **__):
        raise RuntimeError("no page\nat all")

    monkeypatch.setattr(gradio.Blocks, "launch", fails)
    with pytest.raises(UserError, match=r"the page could not be served at port \d+ \(no page\)"):
        serving.start("tiny", talking)


@pytest.mark.parametrize(("words", "said"), [
    (["nowhere"], "holds no finished pipeline"),
    (["--port", "0"], "--port is 0, must be from 1 to 65535"),
])
def test_what_cannot_be_served_is_said(words, said):
    with pytest.raises(SystemExit) as error:
        cli.main(["demo", *words])
    assert said in str(error.value.code)


def test_without_gradio_it_says_what_to_install(talking):
    code = "import sys; sys.modules['gradio'] = None; from latdiff import cli; cli.main(['demo', sys.argv[1]])"
    run = subprocess.run([sys.executable, "-c", code, talking], capture_output=True, text=True, env=os.environ)
    assert run.returncode == 1 and run.stderr.strip().endswith("install it with `pip install gradio`")


def test_a_port_that_is_taken_is_named_before_anything_loads(tmp_path):
    with socket.create_server((serving.LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        said = rf"^port {port} cannot be listened at \(Address already in use\); name a free one with --port$"
        with pytest.raises(UserError, match=said):
            serving.start("nowhere", tmp_path, port)
    assert serving.free_port(port) == port


def test_where_no_port_is_free_that_is_said(monkeypatch):
    with socket.create_server((serving.LOOPBACK, 0)) as taken:
        monkeypatch.setattr(serving, "PORTS", [taken.getsockname()[1]] * 2)
        with pytest.raises(UserError, match=r"port \d+ to \d+ cannot be listened at"):
            serving.free_port()
