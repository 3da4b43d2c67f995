"""Ask the demo page for texts from many sides at once, malformed requests among them, and count what was lost.

    python benchmarks/demo.py --json docs/lab/results/demo.json

Starts `latdiff demo` as a process of its own. A request is answered where it gets texts, and told where it gets a
sentence that says what is wrong. Requests of the same seed must get the same texts, whatever arrived between them.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SEEDS = 10  # that requests share
LONGEST = 3600  # seconds that a request waits for its answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--checkpoint", default="storyworld", help="as `latdiff demo` takes it (default storyworld)")
    parser.add_argument("--slider", default="sentiment=positive", metavar="HEAD=LABEL",
                        help="that every second one moves")
    parser.add_argument("--requests", type=int, default=200, help="well-formed ones at once (default 200)")
    parser.add_argument("--steps", type=int, default=25, help="of each (default 25)")
    options = parser.parse_args()
    from latdiff.evaluation.report import check_writable, machine, write_json

    check_writable(options.json)
    head, _, label = options.slider.partition("=")
    server, address = start(options.checkpoint)
    try:
        began = time.monotonic()
        found = storm(address, options.checkpoint, {head: {label: 1}}, options.requests, options.steps)
        seconds = time.monotonic() - began
        after = ask(address, [options.checkpoint, {}, options.steps, "", 0, 1, ""])[0]
    finally:
        server.send_signal(signal.SIGINT)
        status = server.wait(60)
    document = {**found, "answered_afterwards": after == "texts", "exit_status": status, "seconds": seconds,
                "checkpoint": options.checkpoint, "steps": options.steps, "machine": machine("auto")}
    print(json.dumps(document, indent=2))
    write_json(options.json, document)


def start(checkpoint: str) -> tuple[subprocess.Popen, str]:
    """The page as a process of its own, and its address."""
    command = [sys.executable, "-m", "latdiff", "demo", checkpoint]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        if address := re.search(r"http://[\d.]+:\d+/", line):
            return server, address[0]
    raise SystemExit(f"{' '.join(command)} ended with status {server.wait()}")


def malformed(checkpoint: str) -> list[list[Any]]:
    """Requests that no page would send."""
    usual: list[Any] = [checkpoint, {}, 5, "", 0, 1, ""]
    wrong = {
        0: ["nowhere", "../../etc", 7, None, {"a": 1}, "x" * 10_000],
        1: ["positive", 3, [1], {"nobody": {"x": 1}}, {"sentiment": 2}, {"sentiment": {"positive": math.nan}},
            {"sentiment": {"positive": 1e9}}, {"sentiment": {"positive": -1}}, {"sentiment": {"positive": "much"}},
            {"sentiment": {"nobody": 1}}, {f"h{i}": {"x": 1} for i in range(500)}],
        2: [0, -3, 1e6, 2.5, math.nan, math.inf, "many", [25], True],
        3: ["euler-nobody", 3, ["ddpm"]],
        4: [-1, 1e30, math.nan, "seed", {}],
        5: [0, 1000, math.nan, "all", None],
        6: [3, ["a"], "y" * 10_000],
    }
    rows = [[*usual[:place], value, *usual[place + 1 :]] for place, values in wrong.items() for value in values]
    return [*rows, [], usual[:3]]


def storm(address: str, checkpoint: str, sliders: dict, requests: int, steps: int) -> dict[str, Any]:
    """Send everything at once, malformed requests between the others, and count what came back."""
    asked: list[tuple[int | None, list[Any]]] = [
        (number, [checkpoint, sliders if number % 2 else {}, steps, "", number // 2 % SEEDS, 1, ""])
        for number in range(requests)]
    broken: list[tuple[int | None, list[Any]]] = [(None, data) for data in malformed(checkpoint)]
    mixed = [one for pair in zip(asked, broken, strict=False) for one in pair]
    mixed += asked[len(broken) :] or broken[len(asked) :]
    with ThreadPoolExecutor(len(mixed)) as pool:
        answers = list(pool.map(lambda one: ask(address, one[1]), mixed))
    good = Counter(kind for (number, _), (kind, _) in zip(mixed, answers, strict=True) if number is not None)
    bad = Counter(kind for (number, _), (kind, _) in zip(mixed, answers, strict=True) if number is None)
    said = {text for (number, _), (kind, text) in zip(mixed, answers, strict=True)
            if number is not None and kind != "texts"}
    texts: dict[tuple, set[str]] = {}
    for (number, _), (kind, text) in zip(mixed, answers, strict=True):
        if number is not None and kind == "texts":
            texts.setdefault((number % 2, number // 2 % SEEDS), set()).add(text)
    return {
        "requests": requests, "answered": good["texts"], "told": good["told"], "lost": good["lost"],
        "said": sorted(said), "mixed_up": sum(len(found) > 1 for found in texts.values()),
        "malformed": len(broken), "malformed_answered": bad["texts"], "malformed_told": bad["told"],
        "malformed_lost": bad["lost"]}


def ask(address: str, data: list[Any]) -> tuple[str, str]:
    """What becomes of a request: ("texts", the first), ("told", a sentence) or ("lost", why)."""
    call = f"{address}gradio_api/call/sample"
    body = urllib.request.Request(call, json.dumps({"data": data}).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(body, timeout=LONGEST) as answer:
            event = json.load(answer)["event_id"]
        with urllib.request.urlopen(f"{call}/{event}", timeout=LONGEST) as answer:
            return _outcome(answer)
    except urllib.error.HTTPError as error:
        return _told(error.read().decode())
    except (OSError, ValueError, KeyError) as error:
        return "lost", repr(error)


def _outcome(stream) -> tuple[str, str]:
    """The end of a stream of server-sent events."""
    event = ""
    for line in stream:
        word, _, rest = line.decode().strip().partition(": ")
        if word == "event":
            event = rest
        elif word == "data" and event == "complete":
            texts = json.loads(rest)[0]["texts"]
            return ("texts", texts[0]) if texts and texts[0] else ("lost", "no text")
        elif word == "data" and event == "error":
            return _told(rest)
    return "lost", "the stream ended"


def _told(said: str) -> tuple[str, str]:
    """A refusal, which must be a sentence."""
    found = json.loads(said)
    sentence = (found.get("error") or found.get("detail")) if isinstance(found, dict) else None
    told = isinstance(sentence, str) and len(sentence.split()) > 3 and "Traceback" not in sentence
    return ("told", str(sentence)) if told else ("lost", said)


if __name__ == "__main__":
    main()
