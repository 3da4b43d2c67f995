"""What the help of each command ends with: commands as one would type them, and what an exit status means."""

from __future__ import annotations

EXIT = """\
exit status:
  0    done
  1    an error, which is said in a sentence
  2    a command or a flag that there is not
  130  stopped by Ctrl-C; a training saves first, and the same command goes on. The demo page ends with 0
  141  the output was closed early, as by `| head`
  143  stopped by SIGTERM; a training saves first here too

`latdiff COMMAND --help` has examples, and `latdiff --print-completion bash` completes commands and flags."""

EXAMPLES = {
    "sample": (
        "latdiff sample storyworld --num-samples 4 --guide sentiment=positive --compare",
        "latdiff sample english --guide kind=review --guide sentiment=negative:12 --seed 3",
        "latdiff sample storyworld --num-samples 100000 --output stories.jsonl --quiet",
    ),
    "edit": (
        'latdiff edit storyworld --text "I went to the lake." --guide sentiment=negative',
        "latdiff edit owner/name --data reviews.csv --text-column review --guide tone=polite --strength 0.5 --json",
    ),
    "fit-head": (
        "latdiff fit-head storyworld --data storyworld --label-column sentiment --name tone --output heads/tone",
        "latdiff fit-head english --data reviews.csv --text-column review --name tone --output tone",
        "latdiff fit-head checkpoints/mine --data reviews.jsonl --label-column stars --name stars --number",
    ),
    "evaluate": (
        "latdiff evaluate storyworld --seeds 1",
        "latdiff evaluate checkpoints/mine --fluency smollm2-135m-instruct --judge tone=reviews.csv:tone:review",
        "latdiff evaluate texts.txt --recipe storyworld --json texts.json",
    ),
    "check-config": (
        "latdiff check-config storyworld",
        "latdiff check-config my.yaml train_denoiser.steps=500",
    ),
    "plot": (
        "latdiff plot storyworld --output pictures",
        "latdiff plot english --output pictures --labels sentiment=reviews.csv:tone",
    ),
    "demo": ("latdiff demo", "latdiff demo english --port 7861"),
    "list": ("latdiff list",),
    "fetch": ("latdiff fetch", "latdiff fetch smollm2-135m-instruct --quiet"),
    "publish": (
        "latdiff publish storyworld storyworld-small",
        "latdiff publish checkpoints/mine --to-hub ada/stories --private",
    ),
    "check-checkpoint": ("latdiff check-checkpoint english", "latdiff check-checkpoint owner/name"),
    "pretrain-backbone": (
        "latdiff pretrain-backbone e2e-mini data.source=texts.csv",
        "latdiff pretrain-backbone my.yaml backbone.path=checkpoints/my-t5",
    ),
    "train-ae": (
        "latdiff train-ae storyworld",
        "latdiff train-ae my.yaml train_autoencoder.steps=500 --quiet",
    ),
    "train-diffusion": (
        "latdiff train-diffusion storyworld",
        "latdiff train-diffusion my.yaml data.source=texts.csv name=mine --output runs",
        "accelerate launch --num_processes 4 -m latdiff train-diffusion storyworld-full",
    ),
    "train-sentence": ("latdiff train-sentence english", "latdiff train-sentence english-own data.source=texts.txt"),
    "train-perceiver": ("latdiff train-perceiver english-perceiver",),
    "distill": ("latdiff distill storyworld-4",
                "latdiff distill storyworld-4 name=mine-4 distill.teacher=checkpoints/mine data.source=mine.txt"),
    "train-star": ("latdiff train-star star-storyworld", "latdiff train-star star-storyworld train_star.steps=500"),
    "train-ar": ("latdiff train-ar storyworld", "latdiff train-ar storyworld train_ar.condition_dropout=1"),
    "train-seq2seq": ("latdiff train-seq2seq asset-mini",),
    "train-wellformed": ("latdiff train-wellformed english",),
}


def examples_of(command: str) -> str:
    """The end of a command's help; empty where there are no examples."""
    lines = [f"  {line}" for line in EXAMPLES.get(command, ())]
    return "\n".join(["examples:", *lines]) if lines else ""
