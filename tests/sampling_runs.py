"""`latdiff sample --output` in a process of its own, which may be killed at any moment it touches its files."""

import multiprocessing
import os
import signal
import sys

SMALL = 4  # texts of a chunk
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["latdiff.cli.texts", "latdiff.pipelines.files", "accelerate", "filelock"])
EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")  # audited by Python


def run(flags, folder, kill_at=0, count=None):
    """The command, killed at the n-th event in a folder, or else counting them."""
    from latdiff import cli
    from latdiff.cli import texts

    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1), os.dup2(quiet, 2)
    texts.BATCH_SIZE, seen = SMALL, 0

    def audit(event, arguments):
        nonlocal seen
        if event in EVENTS and str(arguments[0]).startswith(str(folder)):
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)
    cli.main(["sample", *map(str, flags)])
    if count is not None:
        count.value = seen


def begin(*arguments):
    """The process of `run`."""
    process = CONTEXT.Process(target=run, args=arguments)
    process.start()
    return process
