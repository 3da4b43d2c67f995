"""Words that do not depend on the topic: names, companions, weather, feelings, pronouns and verb forms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

NAMES: dict[str, tuple[str, ...]] = {
    "female": tuple("Anna Clara Emma Julia Laura Maria Nora Sofia Helen Alice Ruth Diana Lucy Martha Sarah "
                    "Irene".split()),
    "male": tuple("Adam Daniel David Henry Jacob Leo Martin Oscar Peter Simon Thomas Victor Walter Oliver "
                  "George Samuel".split()),
}
COMPANIONS = tuple("sister brother mother father aunt uncle cousin neighbor friend grandmother grandfather "
                   "niece".split())
TIMES = tuple("morning afternoon day Monday Tuesday Wednesday Thursday Friday".split())
FEELINGS: dict[str, tuple[str, ...]] = {
    "positive": tuple("happy glad pleased delighted cheerful thrilled relieved joyful".split()),
    "negative": tuple("sad upset unhappy disappointed gloomy miserable frustrated annoyed".split()),
}


@dataclass(frozen=True)
class Weather:
    """One kind of weather: its noun, the adjectives and the whole clauses that say it."""

    noun: str
    adjectives: tuple[str, ...]
    clauses: tuple[str, ...]


WEATHERS: dict[str, Weather] = {
    "sunny": Weather("sun", ("sunny", "bright", "cloudless", "golden"),
                     ("the sun shine/s", "the sky be/s deep blue", "sunshine warm/s the streets",
                      "sunlight fill/s the sky")),
    "rainy": Weather("rain", ("rainy", "wet", "drizzly", "soggy"),
                     ("the rain fall/s", "rain drum/s on the roofs", "puddles grow/p in the streets",
                      "dark clouds bring/p heavy rain")),
    "windy": Weather("wind", ("windy", "breezy", "gusty", "blustery"),
                     ("the wind blow/s", "the wind shake/s the trees", "the wind howl/s loudly",
                      "gusts rattle/p the doors")),
    "snowy": Weather("snow", ("snowy", "frosty", "icy", "wintry"),
                     ("the snow fall/s", "thick snow cover/s the ground", "white flakes drift/p down",
                      "snow settle/s on the roofs")),
}

# Case of a protagonist pronoun -> its form; "he" is the subject, "him" the object, "his" the possessive.
PRONOUNS: dict[str, dict[str, str]] = {
    "he": {"first": "i", "female": "she", "male": "he"},
    "him": {"first": "me", "female": "her", "male": "him"},
    "his": {"first": "my", "female": "her", "male": "his"},
    "they": {"first": "we", "female": "they", "male": "they"},
    "them": {"first": "us", "female": "them", "male": "them"},
}

# base: (third person singular, past); regular verbs are derived by rule.
_IRREGULAR: dict[str, tuple[str, str]] = {
    base: (third, past) for base, third, past in (row.split() for row in """
    beg begs begged
    begin begins began
    bend bends bent
    bite bites bit
    blow blows blew
    break breaks broke
    bring brings brought
    build builds built
    buy buys bought
    can can could
    catch catches caught
    choose chooses chose
    clap claps clapped
    dig digs dug
    drive drives drove
    drop drops dropped
    drum drums drummed
    eat eats ate
    fall falls fell
    feel feels felt
    find finds found
    fly flies flew
    forget forgets forgot
    give gives gave
    go goes went
    grab grabs grabbed
    grow grows grew
    hang hangs hung
    hear hears heard
    hide hides hid
    hold holds held
    hum hums hummed
    jam jams jammed
    lead leads led
    leave leaves left
    lend lends lent
    light lights lit
    lose loses lost
    make makes made
    meet meets met
    pop pops popped
    rob robs robbed
    run runs ran
    send sends sent
    shake shakes shook
    shine shines shone
    sing sings sang
    sink sinks sank
    slip slips slipped
    snap snaps snapped
    spend spends spent
    steal steals stole
    step steps stepped
    stick sticks stuck
    sting stings stung
    stop stops stopped
    sweep sweeps swept
    swim swims swam
    take takes took
    tear tears tore
    tell tells told
    think thinks thought
    throw throws threw
    tip tips tipped
    trip trips tripped
    wrap wraps wrapped
    """.strip().splitlines())
}


@cache
def verb_forms(lemma: str) -> dict[tuple[str, str], str]:
    """Forms of a verb by (tense, subject); subjects are "first" (I), "third" (she, it) and "plural"."""
    if lemma == "be":
        return {("present", "first"): "am", ("present", "third"): "is", ("present", "plural"): "are",
                ("past", "first"): "was", ("past", "third"): "was", ("past", "plural"): "were"}
    third, past = _IRREGULAR.get(lemma) or _regular(lemma)
    return {("present", "first"): lemma, ("present", "third"): third, ("present", "plural"): lemma,
            ("past", "first"): past, ("past", "third"): past, ("past", "plural"): past}


def _regular(lemma: str) -> tuple[str, str]:
    """Third person singular and past of a regular verb."""
    if lemma.endswith("y") and lemma[-2] not in "aeiou":
        return lemma[:-1] + "ies", lemma[:-1] + "ied"
    third = lemma + ("es" if lemma.endswith(("s", "x", "z", "ch", "sh", "o")) else "s")
    return third, lemma + ("d" if lemma.endswith("e") else "ed")
