"""What is written about a checkpoint: the document on disk, the tables, the card."""

import json
import math
import shutil

import pytest
from huggingface_hub import ModelCard

from latdiff import cli
from latdiff.config import load_recipe
from latdiff.evaluation.averaging import averaged
from latdiff.evaluation.card import sweep_tables, write_baseline_card, write_card
from latdiff.evaluation.plots import plot_lengths
from latdiff.evaluation.report import (
    check_writable,
    reconstruction_table,
    row_line,
    summary,
    update_metrics,
)


def test_the_table_names_every_figure():
    table = reconstruction_table(
        {"n": 1200, "token_accuracy": 0.91, "exact_match": 0.5, "under_noise": {"0.25": 0.4, "0.5": 0.125}}
    )
    for part in ("1,200", "0.910", "0.500", "0.25 sd", "0.400", "0.125"):
        assert part in table


def test_the_table_has_what_the_backbone_can_do_by_itself():
    table = reconstruction_table(
        {"n": 12, "exact_match": 0.5, "copied_by_backbone": 0.75, "unknown_pieces": 0.002, "under_noise": {}}
    )
    assert [line.split() for line in table.splitlines()[2:]] == [
        ["copied", "by", "backbone", "0.750"], ["unknown", "pieces", "0.002"],
    ]


def test_the_card_shows_a_sweep_as_a_table_and_a_picture():
    row = {"attribute": "tone", "mode": "x0", "scale": 3.5, "n": 8, "success": 0.5, "worst": 0.25, "distinct": 1.0}
    tables = sweep_tables([row, row | {"scale": 7.0}, row | {"attribute": "topic"}])
    assert "| mode | scale | success | worst | distinct |" in tables
    assert "| x0 | 3.5 | 0.500 | 0.250 | 1.000 |" in tables
    assert "metrics-control-tone.png" in tables and "metrics-control-topic.png" in tables
    assert sweep_tables([]) == ""


def test_figures_join_those_already_there(tmp_path):
    update_metrics(tmp_path, {"a": 1, "b": {"c": 2}})
    update_metrics(tmp_path, {"b": 3})
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8")) == {"a": 1, "b": 3}
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def card_of(folder, recipe, settings=()):
    load_recipe(recipe, list(settings)).save(folder / "recipe.yaml")
    write_card(folder)
    return ModelCard.load(folder / "README.md")


def test_the_card_says_how_to_sample_and_what_was_measured(tiny):
    card = ModelCard.load(tiny.checkpoint / "README.md")
    assert card.data.to_dict() == {
        "language": "en", "library_name": "latdiff", "pipeline_tag": "text-generation",
        "tags": ["text-generation", "latent-diffusion", "text-diffusion"],
    }
    assert card.text.startswith("\n# tiny\n")
    assert "latdiff sample checkpoints/tiny --num-samples 8 --seed 0\n" in card.text
    assert 'open_checkpoint("checkpoints/tiny")(num_samples=8).texts' in card.text
    measured = json.loads((tiny.checkpoint / "metrics.json").read_text(encoding="utf-8"))["reconstruction"]
    assert f"reconstruction of {measured['n']} unseen texts" in card.text


def test_a_checkpoint_without_figures_has_a_card(tmp_path):
    card = card_of(tmp_path, "wmt14-de-en")
    assert card.data.datasets == ["wmt/wmt14"]
    assert card.data.language is card.data.license is None  # no recipe says them
    assert "Not evaluated yet" in card.text and "--cond" in card.text
    assert "```" not in card.text and "## Samples" not in card.text and "![" not in card.text


def test_the_card_of_texts_of_ones_own_names_no_data_set(tmp_path):
    (tmp_path / "mine.txt").write_text("A text.", encoding="utf-8")
    assert card_of(tmp_path, "storyworld", [f"data.source={tmp_path / 'mine.txt'}"]).data.datasets is None


def test_the_card_shows_samples_and_a_caption_for_each_picture(tmp_path):
    row = {"n": 2, "scheduler": "ddpm", "steps": 25, "distinct": 1.0, "memorised": 0.0, "samples": ["A {{ b }}\n# c"]}
    document = {"seeds": [0, 1], "machine": "an abacus", "unconditional": [row]}
    (tmp_path / "metrics.json").write_text(json.dumps(document), encoding="utf-8")
    (tmp_path / "metrics-lengths.png").touch()
    text = card_of(tmp_path, "storyworld").text
    assert "seeds 0, 1, an abacus" in text
    assert "\n- A {{ b }}\n  # c\n" in text
    assert "![lengths](metrics-lengths.png)\n\nThe line of each sampler" in text and text.count("![") == 1


def test_what_is_written_into_a_checkpoint_follows_no_link(tmp_path):
    folder, victim = tmp_path / "ck", tmp_path / "victim"
    folder.mkdir()
    victim.mkdir()
    names = ["README.md", "metrics-lengths.png", "metrics-lengths.png.unfinished", "metrics.json",
             "metrics.json.unfinished"]
    for name in names:
        if name != "metrics.json":  # which is read before
            (victim / name).write_text("mine", encoding="utf-8")
        (folder / name).symlink_to(f"../victim/{name}")
    check_writable(folder / "metrics.json")
    update_metrics(folder, {"seeds": [0]})
    plot_lengths({"unseen texts": [0, 2, 5]}, folder / "metrics-lengths.png", "ck")
    assert "Measured by" in card_of(folder, "storyworld").text
    write_baseline_card(folder, "causal language model", "AutoModelForCausalLM", "Nothing was measured.")
    assert "Nothing was measured." in (folder / "README.md").read_text(encoding="utf-8")
    assert {file.read_text(encoding="utf-8") for file in victim.iterdir()} == {"mine"}
    assert not (victim / "metrics.json").exists()
    assert sorted(file.name for file in folder.iterdir()) == [
        "README.md", "metrics-lengths.png", "metrics.json", "recipe.yaml"]
    assert not any(file.is_symlink() for file in folder.iterdir())


UNMEASURED = "fluency: not measured; `latdiff evaluate ... --fluency MODEL` does that"


@pytest.mark.parametrize("scorers", [{}, {"mauve": "gpt2"}])
def test_an_evaluation_without_a_judge_of_fluency_says_so(scorers, tmp_path):
    document = {"seeds": [0], "machine": "an abacus", "scorers": scorers}
    document |= {"unseen": {"n": 2, "distinct": 1.0, "memorised": 0.0}}
    (tmp_path / "metrics.json").write_text(json.dumps(document), encoding="utf-8")
    for text in (summary(document), card_of(tmp_path, "storyworld").text):
        assert text.count(UNMEASURED) == 1
        assert "MODEL a causal language model from a folder or the hub" in text


def test_a_judge_of_fluency_is_named_and_its_perplexity_shown(tmp_path):
    unseen = {"n": 2, "distinct": 1.0, "memorised": 0.0, "perplexity": 3.25}
    said = summary({"scorers": {"fluency": "gpt2"}, "unseen": unseen})
    assert "perplexity by gpt2" in said and "perplexity 3.2" in said and "not measured" not in said


def test_what_training_alone_measured_does_not_speak_of_fluency(tmp_path):
    assert "fluency" not in summary({"reconstruction": {"n": 2, "exact_match": 0.5, "under_noise": {}}})
    assert "fluency" not in card_of(tmp_path, "storyworld").text


def test_a_row_on_one_line():
    assert row_line({"mode": "x0", "scale": 2.5, "n": 8, "samples": ["a"]}) == "mode x0 scale 2.500 n 8"


def documents():
    same = {"n": 4, "sampler": "ancestral", "memorised": 0.0}
    one = {"distinct": 1.0, "seconds": 2.0, "errors": {"frame": 0.5}, "word_histogram": [0, 4], "samples": ["a"]}
    rows = (same | one,
            same | {"distinct": 0.5, "seconds": 4.0, "errors": {}, "word_histogram": [0, 1, 3], "samples": ["b"]})
    return [{"unconditional": [row], "guided": []} for row in rows]


def test_seeds_become_means_and_the_same_tree_of_standard_deviations():
    whole = averaged(documents())
    (row,), (sd,) = whole["unconditional"], whole["sd"]["unconditional"]
    assert row == {"n": 4, "sampler": "ancestral", "distinct": 0.75, "memorised": 0, "seconds": 3, "samples": ["a"],
                   "errors": {"frame": 0.25}, "word_histogram": [0, 2.5, 1.5]}
    assert sd == {"distinct": pytest.approx(math.sqrt(0.125)), "memorised": 0, "seconds": pytest.approx(math.sqrt(2)),
                  "errors": {"frame": pytest.approx(math.sqrt(0.125))}}
    assert whole["guided"] == []


def test_a_figure_that_a_seed_lacks_is_averaged_over_the_others():
    """Perplexity is left out where no text has a token; that seed's is not 0."""
    first, second, third = documents()[0], documents()[1], documents()[1]
    second["unconditional"][0]["perplexity"], third["unconditional"][0]["perplexity"] = 4.0, 6.0
    whole = averaged([first, second, third])
    assert whole["unconditional"][0]["perplexity"] == 5
    assert whole["sd"]["unconditional"][0]["perplexity"] == pytest.approx(math.sqrt(2))
    first["unconditional"][0]["perplexity"] = None  # which a document can hold
    assert averaged([first, second, third])["unconditional"][0]["perplexity"] == 5
    del first["unconditional"][0]["perplexity"]
    assert "perplexity" not in averaged([first, second])["sd"]["unconditional"][0]  # of one figure there is none


def test_one_seed_has_no_spread():
    assert averaged(documents()[:1]) == documents()[0]


def test_the_summary_says_how_much_seeds_differ():
    said = summary(averaged(documents()) | {"seeds": [0, 1]})
    assert "4 samples, ancestral: distinct 0.750 ± 0.354, memorised 0.000 ± 0.000, 3 s" in said
    assert "over 2 seeds" in said
    assert "±" not in summary(documents()[0])


def test_heads_are_on_the_card_with_how_good_they_are(tiny, checkpoint, tmp_path):
    folder = shutil.copytree(tiny.checkpoint, tmp_path / "tiny")
    write_card(folder)
    assert "## Steering" not in (folder / "README.md").read_text(encoding="utf-8")
    shutil.copytree(checkpoint / "heads" / "sentiment", folder / "heads" / "sentiment")
    write_card(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "- `--guide sentiment=LABEL`, `negative`, `positive`: right on " in card
    config = folder / "heads" / "sentiment" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | {"report": {}}), encoding="utf-8")
    write_card(folder)
    assert "- `--guide sentiment=LABEL`, `negative`, `positive`\n" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_card_that_somebody_has_edited_stays(tiny, tmp_path, recwarn):
    folder = shutil.copytree(tiny.checkpoint, tmp_path / "tiny")
    path = folder / "README.md"
    path.unlink(missing_ok=True)
    write_card(folder)
    first = path.read_text(encoding="utf-8")
    write_card(folder, "ada/tiny")
    assert "ada/tiny" in path.read_text(encoding="utf-8") != first and not recwarn.list
    path.write_text(first.replace("# tiny", "# My stories"), encoding="utf-8")
    with pytest.warns(UserWarning, match=r"README.md has been edited since latdiff wrote it, .*; move it away"):
        write_card(folder)
    assert "# My stories" in path.read_text(encoding="utf-8")
    with pytest.warns(UserWarning, match="has been edited"):
        cli.main(["publish", str(folder), str(tmp_path / "copy")])
    assert "# My stories" in (tmp_path / "copy" / "README.md").read_text(encoding="utf-8")
