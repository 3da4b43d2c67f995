"""Recipes: any file and any settings on the command line give a recipe, the same when read again, or say why not."""

import yaml
from bounds import bounded
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import ODD, mutated, odd_texts, texts, values

from latdiff.config import STAGES, Recipe, load_recipe
from latdiff.config.sections import SECTIONS
from latdiff.errors import UserError

KEYS = [*Recipe.model_fields, *(f"{name}.{key}" for name, model in SECTIONS.items() for key in model.model_fields)]
OWN = yaml.safe_dump(Recipe().as_dict(*STAGES), sort_keys=False).encode()
BASE = "name: mine\nstages: [train_denoiser]\n"
plain = st.one_of(values, st.integers(-2, 10**6), st.sampled_from(["auto", "ddpm", "label", "[a, b]", "2e-3", 0.5]))
given_values = st.one_of(odd_texts, texts, plain.map(lambda value: yaml.safe_dump(value, default_flow_style=True)))
overrides = st.lists(st.one_of(
    st.tuples(st.sampled_from(KEYS), given_values).map("=".join), texts,
    st.tuples(st.one_of(texts, st.sampled_from([*SECTIONS, "data.source.x", "."])), given_values).map("=".join),
), max_size=4)
structured = st.dictionaries(st.one_of(texts, st.sampled_from(["base", *Recipe.model_fields, *SECTIONS])), st.one_of(
    values, st.dictionaries(st.sampled_from([key.rpartition(".")[2] for key in KEYS]), plain, max_size=4)), max_size=5)


def check(folder, content, settings=()):
    """A recipe is read, or refused; what was read is the same when it is saved and read again."""
    path = folder / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    recipe = load_recipe(str(path), list(settings))
    recipe.save(folder / "again.yaml")
    try:
        again = load_recipe(str(folder / "again.yaml"))
    except UserError as error:
        raise AssertionError(f"what was saved is refused: {error}") from error
    assert again == recipe


@given(content=st.one_of(st.binary(max_size=60), texts, mutated(OWN)))
@example(content="[" * 3_000)
@example(content="{a: " * 3_000)
@example(content="seed: " + "9" * 5_000)
@example(content="seed: 0x" + "f" * 5_000)
@example(content="seed: 10^20")
@example(content="seed: 100000000000000000000")
@example(content="data: {valid_size: 100000000000000000000}")
@example(content="data: {splits: [[1], 2]}")
@example(content="data: {max_tokens: 5}\ndata: {train_size: 5}\n")
@example(content="a: &a [x, x]\nb: &b [*a, *a, *a, *a]\nname: &c [*b, *b, *b]\nseed: [*c, *c]\n")
@example(content="a: &a [*a]\nseed: *a\n")
@example(content="? [a, b]\n: 2\n")
@example(content="? {a: b}\n: 2\n")
@example(content="seed: !!python/object/apply:os.getcwd []\n")
@example(content="seed: !!binary '='\n")
@example(content="seed: !!timestamp x\n")
@example(content="name: !!int x\n")
@example(content="data: !!set {a, b}\n")
@example(content="name: !!float x\n")
@example(content="base: " + "x" * 5_000)
@example(content="base: ~nobody\n")
@example(content="base: [storyworld]\n")
@example(content="base: mine\n")
@example(content="base: \"a\\0b\"\n")
@example(content="name: mine\n" * 20_000)
@example(content="# " + "x" * 1_000_000)
@example(content="\ufeffseed: 3\n")
@example(content="seed: 3\n".encode("utf-16"))
@example(content="seed: 3\rname: b\r")
@example(content="version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
@example(content="name: \"mine\\n\"")
@example(content="name: " + "n" * 300)
@bounded
def test_any_file(folder, content):
    check(folder, content)


@given(content=structured)
@example(content={"data": {"\ud800": 1}})
@bounded
def test_any_settings_in_a_file(folder, content):
    check(folder, yaml.safe_dump(content, sort_keys=False))


@given(settings=overrides)
@example(settings=["data.classes=[yes,no]", "data.condition=label"])
@example(settings=["data.classes=[01,02]", "data.condition=label"])
@example(settings=["data.classes=[12:30]", "data.condition=label"])
@example(settings=["data.classes=[1.50,2024-01-01,1_000,0x1F,+5]", "data.condition=label"])
@example(settings=["data.classes=[~,null]", "data.condition=label"])
@example(settings=["data={source: a, source: b}"])
@example(settings=["data.splits=[[1], 2]"])
@example(settings=["seed=100000000000000000000", "denoiser.width=100000000000000000000"])
@example(settings=["seed=0x" + "f" * 5_000])
@example(settings=["seed=" + "9" * 5_000])
@example(settings=["data.source=" + "x" * 100_000])
@example(settings=["seed=" + "[" * 5_000])
@example(settings=["data." * 5_000 + "x=1"])
@example(settings=["name=\ud800"])
@example(settings=["data.source=\udcff"])
@example(settings=["diffusion.schedule=tan-²"])
@example(settings=["diffusion.schedule=tan-" + "9" * 400])
@example(settings=["diffusion.schedule=tan-nan"])
@example(settings=["stages=[[train_denoiser]]"])
@example(settings=["stages=[]"])
@example(settings=["pretrain_backbone.mask_rates=[" + "0.5," * 5_000 + "2]"])
@example(settings=["train_denoiser.learning_rate=1" + "0" * 400])
@bounded
def test_any_settings_on_the_command_line(folder, settings):
    check(folder, BASE, settings)


@given(key=st.sampled_from(KEYS), text=st.one_of(st.sampled_from(ODD), texts))
@example(key="backbone.path", text="checkpoints/pretrained/" + "9" * 5_000)
@bounded
def test_any_value_of_any_setting(folder, key, text):
    check(folder, BASE, [f"{key}={text}"])


@given(label=st.one_of(odd_texts, st.from_regex(r"[-+0-9_.:eExo]{1,8}", fullmatch=True)))
@example(label="yes")
@example(label="01")
@example(label="12:30")
@example(label="1.50")
@bounded
def test_a_class_is_taken_as_it_is_written_or_refused(folder, label):
    path = folder / "classes.yaml"
    path.write_text(BASE, encoding="utf-8")
    if set(label) & set(",[]{}#'\"|>%@`!&*?\\") or label != " ".join(label.split()) or ": " in f"{label} ":
        return
    recipe = load_recipe(str(path), [f"data.classes=[{label},other]", "data.condition=label"])
    assert recipe.data.classes == (label, "other")


@given(word=st.one_of(texts, st.sampled_from(["storyworld ", "Storyworld", "x" * 5_000, "a/" * 3_000, "~nobody"])))
@example(word="~\0")
@bounded
def test_any_name_of_a_recipe(word):
    load_recipe(word)
