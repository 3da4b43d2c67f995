"""Several processes of one training, begun as a launcher begins them, each with the losses of its steps."""

import json
import os
import socket
from pathlib import Path

from soak.kills import Soak, run

ENDED = 120  # seconds after which a process is not waited for


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def member(job, folder: Path, port: int, index: int, count: int, at: tuple[int, int, int]) -> None:
    """In a process of its own: one of `count`; the one of index at[0] sends itself signal at[2] at step at[1]."""
    from latdiff import training

    launched = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count,
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in launched.items()} if count > 1 else {})
    losses, begin = folder / f"losses-{index}.jsonl", training.progress_bar

    def progress_bar(start, steps, title, quiet):
        member.stage = title
        return begin(start, steps, title, quiet)

    def report(bar, accelerate, step, loss):
        with losses.open("a", encoding="utf-8") as file:
            file.write(json.dumps([member.stage, step, loss.item()]) + "\n")
        if at[:2] == (index, step):
            os.kill(os.getpid(), at[2])

    training.report, training.progress_bar = report, progress_bar
    try:
        run(job, folder, kill_at=0)
    except BaseException as error:
        (folder / f"error-{index}.txt").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        raise


def together(soak: Soak, job, folder: Path, count: int, at: tuple[int, int, int] = (-1, -1, 0)) -> list[int]:
    """Exit codes of `count` processes that train in a folder."""
    port = free_port()
    members = [soak.context.Process(target=member, args=(job, folder, port, index, count, at))
               for index in range(count)]
    for one in members:
        one.start()
    for one in members:
        one.join(ENDED)
        one.kill()  # where it still runs
        one.join()
    return [one.exitcode for one in members]


def losses(folder: Path, index: int = 0) -> dict[tuple[str, int], float]:
    """Loss of every step of every stage, as one process saw them."""
    rows = (folder / f"losses-{index}.jsonl").read_text(encoding="utf-8").splitlines()
    return {(stage, step): loss for stage, step, loss in map(json.loads, rows)}
