"""Several processes of one training, begun as a launcher begins them, each with the losses of its steps."""

import json
import os
import signal
import socket
import time
from pathlib import Path

from soak.kills import Soak, run

ENDED = 120  # seconds after which a process is not waited for


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def other_weights(index: int) -> None:
    """Begin with other weights in another process than the main one."""
    import torch

    from latdiff.training import Run

    prepare = Run.prepare

    def prepared(run, objective, *args, **kwargs):
        with torch.no_grad():
            for parameter in objective.parameters():
                parameter.add_(index)
        return prepare(run, objective, *args, **kwargs)

    Run.prepare = prepared


def other_texts(index: int) -> None:
    """Read other texts than the main process."""
    from latdiff import storyworld

    sample = storyworld.sample
    storyworld.sample = lambda n, seed, **fixed: sample(n, seed + index, **fixed)


def latents_unseen(index: int) -> None:
    """Do not see latents that lie on the disk, the first time, in another process than the main one."""
    from latdiff import latents

    unseen, opened = [True] * index, latents.open_latents
    latents.open_latents = lambda *place: None if unseen and unseen.pop() else opened(*place)


def slow_to_save(index: int) -> None:
    """Take longer to save than a launcher waits before it ends the others."""
    from latdiff import training

    save = training.save_state

    def saved(*args):
        time.sleep(2)
        save(*args)

    training.save_state = saved


def asked_in_the_last_save(index: int) -> None:
    """Send the main process SIGTERM while it saves step 6."""
    from latdiff import training

    save = training.save_state

    def saved(state, step, *args):
        save(state, step, *args)
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    training.save_state = saved


def member(job, folder: Path, port: int, index: int, count: int, at: tuple[int, int, int], change) -> None:
    """In a process of its own: one of `count`; the one of index at[0] sends itself signal at[2] at step at[1]."""
    from latdiff import training

    launched = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count,
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in launched.items()} if count > 1 else {})
    losses, begin = folder / f"losses-{index}.jsonl", training.progress_bar

    def progress_bar(start, steps, title, quiet):
        member.stage = title
        return begin(start, steps, title, quiet)

    def report(step, loss, *_, **figures):
        with losses.open("a", encoding="utf-8") as file:
            file.write(json.dumps([member.stage, step, loss.item()]) + "\n")
        if at[:2] == (index, step):
            os.kill(os.getpid(), at[2])

    training.report, training.progress_bar = report, progress_bar
    if change:
        change(index)
    try:
        run(job, folder, kill_at=0)
    except BaseException as error:
        (folder / f"error-{index}.txt").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        raise


def together(soak: Soak, job, folder: Path, count: int, at: tuple[int, int, int] = (-1, -1, 0), change=None,
             others=None, ends_others=True) -> list[int]:
    """Exit codes of `count` processes that train in a folder; where one fails, the rest is sent SIGTERM.

    `change` is called with its index in every process before it begins; `others` is what all but the first train.
    Without `ends_others` the rest has to notice by itself: a signal that comes while it ends has Python's own handler.
    """
    port = free_port()
    members = [soak.context.Process(target=member, args=(job if index == 0 else others or job, folder, port, index,
                                                         count, at, change)) for index in range(count)]
    for one in members:
        one.start()
    until, ended = time.monotonic() + ENDED, not ends_others
    while time.monotonic() < until and any(one.is_alive() for one in members):
        if not ended and any(one.exitcode for one in members):
            ended = True
            for one in members:
                one.terminate()
        time.sleep(0.01)
    for one in members:
        one.kill()  # where it still runs
        one.join()
    return [one.exitcode for one in members]


def losses(folder: Path, index: int = 0) -> dict[tuple[str, int], float]:
    """Loss of every step of every stage, as one process saw them."""
    rows = (folder / f"losses-{index}.jsonl").read_text(encoding="utf-8").splitlines()
    return {(stage, step): loss for stage, step, loss in map(json.loads, rows)}
