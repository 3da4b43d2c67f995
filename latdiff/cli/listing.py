"""`latdiff list`: pipelines that can be sampled from, the heads that steer them, and models that can be fetched."""

from __future__ import annotations

import argparse

from latdiff.pipelines.listing import Listed, models_here, pipelines_along, pipelines_here

CONDITIONS = {"label": "a class (--cond)", "text": "a source text (--cond)", "prefix": "a first sentence (--cond)",
              "start": "first words (--prompt)"}


def add_list(commands) -> None:
    command = commands.add_parser(
        "list", help="say which checkpoints are there, and which heads steer them",
        description="Checkpoints that come with latdiff and those in ./checkpoints, with the heads that steer them.",
    )
    command.add_argument("--quiet", action="store_true", help="print nothing but the list")
    command.set_defaults(run=run_list)


def run_list(options: argparse.Namespace) -> None:
    along, here = pipelines_along(), pipelines_here()
    print("Checkpoints that come with latdiff, for every command by their name:")
    print("\n".join(map(described, along)))
    print("\nCheckpoints in ./checkpoints:" if here else "\nCheckpoints in ./checkpoints: none yet; "
          "`latdiff train-diffusion storyworld` makes one")
    print("\n".join(map(described, here)), end="\n" if here else "")
    print("\nPretrained models (`latdiff fetch`):")
    for name, is_here in models_here().items():
        print(f"  {name:24} {'here' if is_here else f'not here yet: latdiff fetch {name}'}")
    print(f"\nSample, for example: {example(along)}")


def described(one: Listed) -> str:
    """A pipeline in two lines or more: name and size, then its heads, its condition and what it lacks."""
    lines = [f"  {one.name:24} {one.megabytes:.0f} MB, {one.kind}"]
    lines += [f"    --guide {name}={'|'.join(labels) or 'NUMBER'}" for name, labels in one.heads.items()]
    lines += [f"    goes on from {CONDITIONS[one.condition]}" if one.condition == "start" else
              f"    conditioned on {CONDITIONS[one.condition]}"] if one.condition in CONDITIONS else []
    lines += [f"    needs {' and '.join(one.missing)}: latdiff fetch"] if one.missing else []
    return "\n".join(lines)


def example(pipelines: list[Listed]) -> str:
    """A command that samples from the pipeline that asks for least, steered by a head of it where there is one."""
    one = min(pipelines, key=lambda listed: (len(listed.missing), listed.condition in CONDITIONS, listed.megabytes))
    steered = next((f" --guide {name}={labels[-1]}" for name, labels in one.heads.items() if labels), "")
    return f"latdiff sample {one.name}{steered} --num-samples 4 --seed 0"
