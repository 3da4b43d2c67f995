"""The page on this machine's own address, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from latdiff.demo.shelf import Shelf
from latdiff.errors import UserError, first_line

LOOPBACK = "127.0.0.1"
WAITING = 256  # requests that may wait; any further one is told so
PORTS = range(7860, 7960)  # of which the first free one is taken where none is named


def serve(name: str, folder: Path, port: int | None = None) -> None:
    """Serve the page until Ctrl-C, which is its usual end, or SIGTERM, which raises SystemExit with status 143.

    Args:
        name: of the first checkpoint, as the page shows it.
        folder: where it lies.
        port: to listen at; None takes a free one.

    Raises:
        UserError: Without Gradio, for a checkpoint that cannot be opened, and for a port that is taken.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it begins in the background ignore it
    signal.signal(signal.SIGTERM, _end)
    with tempfile.TemporaryDirectory(prefix="latdiff-demo-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        page, address = start(name, folder, port)
        print(f"latdiff demo: {address} (for this machine alone; Ctrl-C ends it)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print()
        finally:
            page.close(verbose=False)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def start(name: str, folder: Path, port: int | None = None) -> tuple[Any, str]:
    """As `serve`, but goes on at once: the page, which has `close`, and its address."""
    port = free_port(port)
    no_proxy_for_loopback()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Gradio reads it as it is imported
    try:
        import gradio as gr
    except ModuleNotFoundError:
        raise UserError("the demo page needs gradio; install it with `pip install gradio`") from None
    from latdiff.demo.fitting import MOST_BYTES
    from latdiff.demo.page import build
    from latdiff.demo.showing import CSS

    shelf = Shelf(name, folder)
    with shelf.use(name):
        pass  # what is wrong with it is said now, and the first visitor need not wait
    page = build(shelf).queue(max_size=WAITING, default_concurrency_limit=8)
    theme = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]).set(
        block_title_background_fill="none", block_title_padding="0", block_title_text_color="*body_text_color",
        block_title_text_weight="500")
    try:
        _, address, _ = page.launch(
            server_name=LOOPBACK, server_port=port, share=False, quiet=True, show_error=True, prevent_thread_lock=True,
            max_file_size=MOST_BYTES, state_session_capacity=WAITING, enable_monitoring=False, ssr_mode=False,
            pwa=False, mcp_server=False, run_history=False, footer_links=[], theme=theme, css=CSS)
    except Exception as error:  # Gradio raises whatever it likes, and what its client raises
        raise UserError(f"the page could not be served at port {port} ({first_line(error)}); name another one with "
                        "--port") from error
    return page, address


def free_port(port: int | None = None) -> int:
    """The port, or the first free one of PORTS. Raises UserError where it is taken, or they all are."""
    for one in (port,) if port else PORTS:
        with socket.socket() as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # also just after a page has ended
            try:
                listening.bind((LOOPBACK, one))
                return one
            except OSError as error:
                reason = error.strerror
    named = port or f"{PORTS[0]} to {PORTS[-1]}"
    raise UserError(f"port {named} cannot be listened at ({reason}); name a free one with --port")


def no_proxy_for_loopback() -> None:
    """Have this process reach its own page past a proxy, for Gradio looks whether it is there."""
    known = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")).split(",")
    if not {"*", LOOPBACK} & set(known):
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join([*filter(None, known), LOOPBACK])
