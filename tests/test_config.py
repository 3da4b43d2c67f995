"""Recipes as a user meets them: a name and `section.key=value` in, settings or every problem out."""

import sys
from pathlib import Path

import pytest
import yaml

from latdiff.cli import main, parser
from latdiff.config import (
    STAGES,
    Recipe,
    RecipeError,
    Section,
    load_recipe,
    reading,
    recipe_from_command_line,
    stage,
)
from latdiff.config.sections import SECTIONS
from latdiff.errors import UserError, plain_errors

SHIPPED = sorted((Path(__file__).parents[1] / "recipes" / "configs").glob("*.yaml"))


@pytest.fixture
def recipe_file(tmp_path):
    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def problems(recipe, overrides=()):
    with pytest.raises(RecipeError) as error:
        load_recipe(recipe, list(overrides))
    return str(error.value)


def settings():
    for model in (Recipe, *SECTIONS.values()):
        yield from ((f"{model.__name__}.{name}", field) for name, field in model.model_fields.items())


# What works


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_is_named_after_its_file(path):
    assert load_recipe(str(path)).name == path.stem


def test_every_setting_has_a_sentence_of_documentation():
    assert len(list(settings())) > 50
    assert not [name for name, field in settings() if not field.description]


def test_every_default_keeps_to_its_own_limits(recipe_file):
    assert load_recipe(recipe_file(yaml.safe_dump(Recipe().as_dict(*STAGES)))) == Recipe()


def test_a_recipe_is_the_defaults_the_file_and_the_overrides_in_this_order(recipe_file):
    path = recipe_file("seed: 3\ntrain_autoencoder:\n  steps: 10\n  batch_size: 8\n")
    recipe = load_recipe(
        path, ["train_autoencoder.steps=20", "train_autoencoder.steps=30", "denoiser.depth=1"]
    )
    assert recipe.seed == 3 and recipe.denoiser.depth == 1
    assert recipe.train_autoencoder == SECTIONS["train_autoencoder"](steps=30, batch_size=8)


def test_the_name_is_the_file_s_unless_set_and_names_the_folder(recipe_file):
    path = recipe_file("")
    assert load_recipe(path).folder == Path("checkpoints/mine")
    assert load_recipe(path, ["name=other"]).folder == Path("checkpoints/other")
    assert load_recipe(path, ["name=17"]).name == "17"


def test_an_override_of_a_section_sets_what_it_names_and_leaves_the_rest(recipe_file):
    path = recipe_file("data: {source: mine.csv, max_tokens: 40, classes: [a, b], condition: label}\n")
    data = load_recipe(path, ["data={max_tokens: 50, classes: [c]}", "data.valid_size=7"]).data
    assert (data.source, data.max_tokens, data.classes, data.valid_size) == ("mine.csv", 50, ("c",), 7)
    assert load_recipe(path, ["data={}"]).data == load_recipe(path).data
    assert "data.maxtokens: no such setting; did you mean max_tokens?" in problems(path, ["data={maxtokens: 50}"])
    assert "data: is a section with keys of its own, but is set to 5" in problems(path, ["data=5"])


@pytest.mark.parametrize("settings, path", [
    ([], "t5-mini"), (["name=other"], "t5-mini"), (["data.source=mine.csv"], "checkpoints/mine-t5"),
    (["data.source=owner/name", "name=other"], "checkpoints/other-t5"),
    (["data.source=mine.csv", "backbone.path=t5-mini"], "t5-mini"), (["backbone.path=hub/name"], "hub/name"),
])
@pytest.mark.parametrize("base", ["", "base: mini\n"])
def test_texts_of_ones_own_have_a_backbone_of_their_own_unless_another_is_named(recipe_file, settings, path, base):
    recipe = load_recipe(recipe_file(base), settings)
    assert recipe.backbone.path == path
    assert recipe.as_dict()["backbone"] == {"path": path}


def test_a_backbone_that_nobody_reads_is_in_no_recipe():
    recipe = load_recipe("english", ["data.source=mine.csv"])
    assert "backbone" not in recipe.as_dict()


def test_an_override_may_hold_an_equals_sign_or_be_no_yaml(recipe_file):
    path = recipe_file("")
    assert load_recipe(path, ["data.source=folder/a=b"]).data.source == "folder/a=b"
    assert load_recipe(path, ["data.source=@here"]).data.source == "@here"
    assert load_recipe(path, ["data.source=2024-13-45"]).data.source == "2024-13-45"


@pytest.mark.parametrize("text", ["2e-3", "0.002", "2.0e-3"])
def test_scientific_notation_is_a_number_in_files_and_overrides(recipe_file, text):
    path = recipe_file(f"train_denoiser:\n  learning_rate: {text}\n")
    assert load_recipe(path).train_denoiser.learning_rate == 0.002
    assert load_recipe(path, [f"train_denoiser.learning_rate={text}"]).train_denoiser.learning_rate == 0.002


def test_a_whole_number_does_for_a_number(recipe_file):
    rate = load_recipe(recipe_file(""), ["train_denoiser.learning_rate=1"]).train_denoiser.learning_rate
    assert rate == 1.0 and isinstance(rate, float)


def test_lists_become_tuples(recipe_file):
    path = recipe_file("pretrain_backbone:\n  mask_rates: [0.1, 0.2]\n")
    assert load_recipe(path).pretrain_backbone.mask_rates == (0.1, 0.2)
    overridden = load_recipe(path, ["pretrain_backbone.mask_rates=[0, 0.5]"])
    assert overridden.pretrain_backbone.mask_rates == (0, 0.5)


def test_what_is_saved_loads_as_the_same_recipe(recipe_file, tmp_path):
    overrides = ["name=other", "train_denoiser.learning_rate=1e-4", "pretrain_backbone.mask_rates=[0.3]"]
    recipe = load_recipe(recipe_file("seed: 5\n"), overrides)
    recipe.save(tmp_path / "new" / "recipe.yaml")
    assert load_recipe(str(tmp_path / "new" / "recipe.yaml")) == recipe


def test_the_command_line_gives_the_recipe_and_whether_to_be_quiet(recipe_file, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", recipe_file(""), "seed=4", "denoiser.depth=2", "--quiet"])
    recipe, quiet = recipe_from_command_line("Train.")
    assert (recipe.seed, recipe.denoiser.depth, quiet) == (4, 2, True)


# What is refused, and how


def test_an_unknown_recipe_lists_the_known_ones_and_the_nearest(monkeypatch, tmp_path):
    for name in ("storyworld", "e2e"):
        (tmp_path / f"{name}.yaml").write_text("")
    monkeypatch.setattr(reading, "CONFIG_FOLDER", tmp_path)
    message = problems("storywrld")
    assert "neither a file nor one of e2e, storyworld" in message and "did you mean storyworld?" in message
    assert load_recipe("e2e").name == "e2e"


def test_all_problems_of_file_and_overrides_come_at_once(recipe_file):
    path = recipe_file("sed: 1\ntrain_autoencoder:\n  stepz: 5\n  batch_size: 1\n")
    message = problems(path, ["denoiser.depth=deep", "nonsense", "diffusion.prediction=eps"])
    assert message.startswith(f"{path}: 6 problems\n")
    assert "  - sed: no such setting; did you mean seed?" in message
    assert "  - train_autoencoder.stepz: no such setting; did you mean steps? (known: steps, " in message
    assert "  - train_autoencoder.batch_size: is 1, must be at least 2 (texts per step)" in message
    assert "  - denoiser.depth: is 'deep', must be a whole number (blocks)" in message
    assert "  - 'nonsense': write it as section.key=value, e.g. " in message
    assert "  - diffusion.prediction: is 'eps', must be one of v, x0" in message


REFUSED = {
    "seed=1.5": "seed: is 1.5, must be a whole number",
    "seed=true": "seed: is True, must be a whole number",
    "seed=-1": "seed: is -1, must be at least 0",
    "seed=": "seed: is '', must be a whole number",
    "data.source=[a]": "data.source: is ['a'], must be a text",
    "data.source=null": "data.source: is None, must be a text",
    "train_denoiser.learning_rate=fast": "train_denoiser.learning_rate: is 'fast', must be a number",
    "train_denoiser.learning_rate=-1e-3": "train_denoiser.learning_rate: is -0.001, must be at least 0.0",
    "train_denoiser.learning_rate=nan": "train_denoiser.learning_rate: is nan, must be a finite number",
    "train_denoiser.learning_rate=.inf": "train_denoiser.learning_rate: is '.inf', must be a number",
    "train_denoiser.ema_decay=1.5": "train_denoiser.ema_decay: is 1.5, must be at most 1.0",
    "sampling.scheduler=dmp++": "sampling.scheduler: is 'dmp++', must be one of ",
    "pretrain_backbone.mask_rates=0.3": "pretrain_backbone.mask_rates: is 0.3, must be a list",
    "pretrain_backbone.mask_rates=[]": "pretrain_backbone.mask_rates: is [], must be shares",
    "pretrain_backbone.mask_rates=[1.5]": "pretrain_backbone.mask_rates: is [1.5], must be shares",
    "pretrain_backbone.mask_rates=[a]": "pretrain_backbone.mask_rates: is ['a'], must be shares",
    "data=5": "data: is a section with keys of its own, but is set to 5",
    "seed.x=5": "'seed.x=5': seed is a single value, not a section",
    "=5": "'=5': write it as section.key=value",
    "name=": "name: is '', must be a folder name",
    "name=../other": "name: is '../other', must be a folder name",
    "denoiser.width=100": "denoiser.width: 100 is not divisible by heads=",
    "autoencoder.max_tokens=8": "data.max_tokens: 96 is more than autoencoder.max_tokens=8; raise the latter",
    "autoencoder.assumed_noise=0.9": "autoencoder.assumed_noise: is 0.9, but training adds noise of at most",
    "diffusion.schedule=linear": "diffusion.schedule: is 'linear', must be cosine or tan-D",
    "diffusion.schedule=tan-0": "diffusion.schedule: is 'tan-0', must be cosine or tan-D",
    "diffusion.schedule=tan-0.0": "diffusion.schedule: is 'tan-0.0', must be cosine or tan-D",
}


@pytest.mark.parametrize("override, expected", REFUSED.items(), ids=REFUSED)
def test_a_wrong_value_is_refused_in_one_sentence(recipe_file, override, expected):
    message = problems(recipe_file("seed: 0\ndenoiser:\n  heads: 3\n  width: 99\n"), [override])
    assert f"one problem\n  - {expected}" in message


def test_the_nearest_allowed_value_is_named(recipe_file):
    assert "did you mean dpm++?" in problems(recipe_file(""), ["sampling.scheduler=dmp++"])


def test_a_width_that_does_not_fit_its_heads_comes_with_one_that_does(recipe_file):
    path = recipe_file("")
    assert "try 252" in problems(path, ["denoiser.width=255", "denoiser.heads=12"])
    assert load_recipe(path, ["denoiser.width=252", "denoiser.heads=12"]).denoiser.width == 252


@pytest.mark.parametrize(
    "text, expected",
    [
        ("- a\n", "but holds a list"),
        ("a: [\n", "is not readable YAML"),
        ("? [a, b]\n: 2\n", "is not readable YAML"),
        ("seed: 99999999999999999999\n", "seed: is 99999999999999999999, must be at most"),
        ("data:\n  - a\n", "data: is a section"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(recipe_file, text, expected):
    assert expected in problems(recipe_file(text))


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"name: caf\xe9\n")
    assert "is not readable YAML" in problems(str(path))


def test_commands_print_a_user_error_without_a_traceback():
    with pytest.raises(SystemExit, match=r"^error: too bad$"), plain_errors():
        raise UserError("too bad")
    assert issubclass(RecipeError, UserError)


# A recipe on top of another


@pytest.fixture
def two(recipe_file, tmp_path):
    def write(text):
        (tmp_path / "first.yaml").write_text(
            "name: other\nseed: 3\ntrain_autoencoder: {steps: 10, mask_rates: [0, 0.5]}\n", encoding="utf-8"
        )
        return recipe_file(text)

    return write


def test_a_base_gives_what_a_recipe_leaves_out(two):
    recipe = load_recipe(two("base: first\ntrain_autoencoder: {steps: 20}"), ["train_autoencoder.batch_size=8"])
    assert (recipe.name, recipe.seed) == ("mine", 3)
    train = recipe.train_autoencoder
    assert (train.steps, train.mask_rates, train.batch_size) == (20, (0, 0.5), 8)


def test_a_base_may_be_a_shipped_recipe_and_a_list_replaces_a_list(two, monkeypatch):
    monkeypatch.chdir("/")
    assert load_recipe(two("base: storyworld")).autoencoder == load_recipe("storyworld").autoencoder
    assert load_recipe(two("base: first\ntrain_autoencoder: {mask_rates: [0]}")).train_autoencoder.mask_rates == (0,)


def test_a_base_that_cannot_be_used(two):
    assert "no recipe 'furst'" in problems(two("base: furst"))
    assert "is its own base" in problems(two("base: mine"))
    assert "data: is a section" in problems(two("base: first\ndata: [1]"))
    assert "train_autoencoder.stepz: no such setting" in problems(two("base: first\ntrain_autoencoder: {stepz: 1}"))


@pytest.mark.parametrize("splits", ["[]", "[train, train]", "[a, b, c]"])
def test_splits_are_one_or_two(recipe_file, splits):
    assert "data.splits: is [" in problems(recipe_file(f"data: {{splits: {splits}}}"))


# What a recipe is composed of


def test_a_recipe_prints_the_sections_of_its_stages_and_those_that_it_sets(recipe_file):
    path = recipe_file("")
    denoiser = {"data", "sampling", "backbone", "pretrain_backbone", "autoencoder", "train_autoencoder", "denoiser"}
    denoiser |= {"diffusion", "train_denoiser"}
    assert {*load_recipe(path).as_dict()} - {*Recipe.model_fields} == denoiser
    assert {*load_recipe(path, ["train_ar.width=96"]).as_dict()} - {*Recipe.model_fields} == denoiser | {"train_ar"}
    alone = load_recipe(path, ["stages=[train_ar]"]).as_dict()
    assert {*alone} - {*Recipe.model_fields} == {"data", "backbone", "train_ar"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_sets_sections_of_its_stages_alone(path):
    assert {*yaml.safe_load(path.read_text(encoding="utf-8"))} & {*SECTIONS} <= {*load_recipe(str(path)).sections()}


def test_check_config_prints_what_the_stages_read_and_not_what_a_base_has_for_others(capsys):
    codec = {"data", "backbone", "pretrain_backbone", "autoencoder", "train_autoencoder", "sampling"}
    for name, sections in (("storyworld-rival", {"data", "backbone", "train_ar"}), ("english-mini", codec),
                           ("storyworld", codec | {"denoiser", "diffusion", "train_denoiser"})):
        main(["check-config", name])
        assert {*yaml.safe_load(capsys.readouterr().out)} - {*Recipe.model_fields} == sections


def test_a_new_family_declares_its_sections_and_edits_no_other_file(recipe_file, monkeypatch):
    monkeypatch.setitem(SECTIONS, "plan", None)  # so that what is declared here is taken back
    monkeypatch.setitem(STAGES, "train_planner", None)

    class Plan(Section):
        depth: int = 3

        def problems(self, recipe):
            if self.depth > recipe.data.max_tokens:
                yield f"plan.depth: {self.depth} is deeper than texts are long"

    stage("train_planner", shared=("data",), plan=Plan)
    recipe = load_recipe(recipe_file("stages: [train_planner]\nplan: {depth: 5}\n"))
    assert recipe.plan.depth == 5
    assert {*recipe.as_dict()} - {*Recipe.model_fields} == {"data", "plan"}
    assert parser().parse_args(["train-planner", "storyworld"]).stage == "train_planner"
    assert "plan.depth: is 'x', must be a whole number" in problems(recipe_file("plan: {depth: x}"))
    assert "plan.depth: 200 is deeper" in problems(recipe_file("plan: {depth: 200}"))
    assert "plam: no such setting; did you mean plan?" in problems(recipe_file("plam: {depth: 1}"))


def test_a_stage_or_a_codec_that_is_not_there_is_refused(recipe_file):
    said = problems(recipe_file(""), ["stages=[train_denoisr]", "codec=autoencodr"])
    assert "stages: has 'train_denoisr', must be of " in said and "did you mean train_denoiser?" in said
    assert "codec: is 'autoencodr', must be one of autoencoder, perceiver, sentence; did you mean autoencoder?" in said


@pytest.mark.parametrize("name", ["denoiser", "ar"])
def test_a_stage_that_trains_no_codec_is_none(recipe_file, name):
    assert f"codec: is '{name}', must be one of autoencoder" in problems(recipe_file(""), [f"codec={name}"])


def test_a_section_out_of_use_objects_only_where_it_is_given(recipe_file):
    path, given = recipe_file("stages: [train_ar]\n"), ["data.max_tokens=400"]
    assert load_recipe(path, given).data.max_tokens == 400
    assert "400 is more than autoencoder.max_tokens=200" in problems(path, [*given, "autoencoder.max_tokens=200"])
    assert "400 is more than autoencoder.max_tokens=128" in problems(path, [*given, "stages=[train_denoiser]"])


@pytest.mark.parametrize("text", ["data: {max_tokens: 64}\ndata: {train_size: 5}\n", "data: {source: a, source: b}\n"])
def test_a_key_that_stands_twice_is_refused(recipe_file, text):
    assert "is given twice" in problems(recipe_file(text))


def test_older_recipes_are_read_by_their_older_names(recipe_file):
    path = recipe_file("backbone: {path: checkpoints/pretrained/t5-mini}\ntrain_denoiser: {told_nothing: 0.3}\n"
                       "train_ar: {told_nothing: 1}\n")
    recipe = load_recipe(path)
    assert (recipe.train_denoiser.condition_dropout, recipe.train_ar.condition_dropout) == (0.3, 1)
    assert recipe.backbone == Recipe().backbone


def test_paths_lead_to_what_comes_with_latdiff_to_the_output_and_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = Recipe(output="runs")
    assert Path(recipe.located("t5-mini"), "model.safetensors").is_file()
    assert recipe.located("checkpoints/my-t5") == "runs/my-t5"
    assert recipe.located("~/t5") == str(tmp_path / "t5")
    assert recipe.located("google/flan-t5-base") == "google/flan-t5-base"
    (tmp_path / "checkpoints" / "my-t5").mkdir(parents=True)
    assert recipe.located("checkpoints/my-t5") == "checkpoints/my-t5"  # is there already
    assert Recipe(output="~/runs", name="one").folder == tmp_path / "runs" / "one"


def test_the_command_line_says_where_the_output_goes(recipe_file, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", recipe_file(""), "--output", "elsewhere", "seed=2"])
    recipe, _ = recipe_from_command_line("Train.")
    assert (recipe.folder, recipe.seed) == (Path("elsewhere/mine"), 2)


@pytest.mark.parametrize("name, setting, said", [
    ("english-own", "train_autoencoder.steps=5",
     r"only `latdiff train-ae` reads it, but the recipe's codec is 'sentence'; did you mean train_sentence\.steps\?"),
    ("storyworld", "sentence.rank=2", "only `latdiff train-sentence` reads it, but .* codec is 'autoencoder'"),
])
def test_a_setting_that_only_another_codec_s_training_reads_is_refused(name, setting, said):
    with pytest.raises(RecipeError, match=said):
        load_recipe(name, [setting])
