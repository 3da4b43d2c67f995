"""The oracle: reads any text and says whether it is a story of this world and, if not, why not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from .frames import FRAMES, PLANS
from .grammar import ATTRIBUTES, GENDERS, WORD_SLOTS, tell
from .index import ARTICLES, Index, Pattern, story_index
from .lexicon import PRONOUNS, verb_forms
from .parsing import TOKEN, Sentence, split_sentences, surface_errors
from .sentences import PREPOSITIONS, Element, indefinite

# Kind of error -> what it means; a reading lists its kinds in this order.
ERRORS: dict[str, str] = {
    "empty": "the text has no words",
    "unknown_word": "a word that no story has",
    "spacing": "words are not separated by exactly one space",
    "case": "a capital is missing or misplaced",
    "article": "an article is missing, superfluous or the wrong one",
    "agreement": "a verb does not agree with its subject",
    "tense": "past and present are mixed",
    "person": "first and third person are mixed",
    "pronoun": "a pronoun does not fit the protagonist or its place in the sentence",
    "name": "another name than the protagonist's, or a name that is missing",
    "companion": "the companion comes back as somebody else",
    "object": "the object comes back as another object",
    "place": "the place comes back as another place",
    "topic": "something of another topic",
    "weather": "the weather changes or is not mentioned",
    "coherence": "the outcome does not fit the complication",
    "sentiment": "the outcome and the feeling, or their wording, do not fit each other",
    "doubled_sentence": "a sentence is told twice",
    "extra_sentence": "a sentence that the plan of the story has no room for",
    "missing_sentence": "a sentence that the plan of the story needs is missing",
    "order": "sentences are in the wrong order",
    "cut_off": "the text ends in the middle of a sentence",
    "punctuation": "a comma or a full stop is missing or misplaced, or there is another mark",
    "frame": "a sentence that the grammar cannot make of these words",
}

# Word -> (person, gender) of the protagonist that it speaks of; no gender for a pronoun of either.
PRONOUN_MEANING: dict[str, tuple[str, str]] = {
    "i": ("first", ""), "me": ("first", ""), "my": ("first", ""), "we": ("first", ""), "us": ("first", ""),
    "she": ("third", "female"), "her": ("third", "female"), "he": ("third", "male"), "him": ("third", "male"),
    "his": ("third", "male"), "they": ("third", ""), "them": ("third", ""),
}
TIED_SLOTS = ("companion", "object", "place")


@dataclass(frozen=True)
class Reading:
    """What the oracle read: validity, kinds of error with human details, attributes and slots.

    Attributes and slots that cannot be read are absent.
    """

    valid: bool
    errors: tuple[str, ...]
    details: tuple[str, ...]
    attributes: dict[str, str]
    slots: dict[str, str]


@dataclass
class _Facts:
    """Votes for every attribute and slot, and the errors found so far."""

    votes: dict[str, Counter[str]] = field(default_factory=dict)
    errors: list[tuple[str, str]] = field(default_factory=list)

    def vote(self, about: str, value: str) -> None:
        """Count one mention."""
        self.votes.setdefault(about, Counter())[value] += 1

    def winner(self, about: str) -> str | None:
        """The value mentioned most often, the first one of equals."""
        votes = self.votes.get(about)
        return votes.most_common(1)[0][0] if votes else None

    def majority(self, about: str) -> str | None:
        """The value that has more than half of the mentions."""
        votes = self.votes.get(about)
        if not votes:
            return None
        value, count = votes.most_common(1)[0]
        return value if 2 * count > sum(votes.values()) else None

    def error(self, kind: str, detail: str) -> None:
        """Note an error."""
        self.errors.append((kind, detail))


def read(text: str) -> Reading:
    """Read a text.

    Args:
        text: any string.

    Returns:
        A Reading; a text is valid only if the grammar generates exactly this text from the attributes and slots that
        were read. An invalid text has at least one error.
    """
    tokens = TOKEN.findall(text)
    if not any(token[0].isalnum() for token in tokens):
        return Reading(False, ("empty",), ("The text has no words.",), {}, {})
    known = story_index()
    facts = _Facts(errors=surface_errors(text, tokens, known))
    sentences, found = split_sentences(tokens, known)
    facts.errors += found
    for sentence in sentences:
        _collect(sentence, known, facts)
    for number, sentence in enumerate(sentences, start=1):
        where = f"Sentence {number}"
        if sentence.pattern:
            _check_words(sentence, sentence.pattern, where, known, facts)
            _check_small_words(sentence, sentence.pattern, where, facts)
        else:
            _check_loose_words(sentence, where, known, facts)
            if not sentence.cut and known.key(sentence.words) is not None:
                facts.error("frame", f"{where} is none that the grammar can make.")
    _check_end(sentences, facts)
    _check_plan(sentences, facts)
    _check_story(facts)
    attributes, slots = _attributes(sentences, facts), _slots(sentences, facts)
    if not facts.errors and tell(attributes, slots) != text:
        facts.error("frame", "The text differs from the story that its parts make.")
    kinds = {kind for kind, _ in facts.errors}
    details = tuple(dict.fromkeys(detail for _, detail in facts.errors))
    return Reading(not kinds, tuple(kind for kind in ERRORS if kind in kinds), details, attributes, slots)


def _collect(sentence: Sentence, known: Index, facts: _Facts) -> None:
    """Count what a sentence says about the story."""
    pattern = sentence.pattern
    if pattern is None:
        for word in sentence.content:
            _collect_loose(word, known, facts)
        return
    for element, word in zip(pattern.content, sentence.content, strict=True):
        if element.kind == "verb":
            facts.vote("tense", known.verbs[word][1])
        elif element.kind in ("pronoun", "name"):
            _vote_protagonist(word, known, facts)
        elif element.kind == "slot":
            _vote_slot(element.value, word, known, facts)
    for slot, value in pattern.choices.items():
        facts.vote(slot, value)
        if slot in ("complication", "outcome"):
            facts.vote("topic", value.split()[0])
        if slot == "outcome":
            facts.vote("sentiment", value.split()[2])
    mood = FRAMES[pattern.role][pattern.frame].sentiment
    if mood:
        facts.vote("sentiment", mood)


def _collect_loose(word: str, known: Index, facts: _Facts) -> None:
    """Count what a word says that stands in no sentence of the grammar."""
    slot = known.slot_of(word)
    if word in known.verbs:
        facts.vote("tense", known.verbs[word][1])
    elif word in PRONOUN_MEANING or word in known.slots["name"]:
        _vote_protagonist(word, known, facts)
    elif slot:
        _vote_slot(slot, word, known, facts)
    elif word in known.topic_words:
        facts.vote("topic", known.topic_words[word])
    elif word in known.weather_words:
        facts.vote("weather", known.weather_words[word])


def _vote_protagonist(word: str, known: Index, facts: _Facts) -> None:
    """Count a name or pronoun."""
    if word in known.slots["name"]:
        name = known.slots["name"][word]
        facts.vote("name", name)
        person, gender = "third", GENDERS[name]
    else:
        person, gender = PRONOUN_MEANING[word]
    facts.vote("person", person)
    if gender:
        facts.vote("gender", gender)


def _vote_slot(slot: str, word: str, known: Index, facts: _Facts) -> None:
    """Count the value of a slot and what it says about the attributes."""
    facts.vote(slot, known.slots[slot][word])
    if slot in known.topics:
        facts.vote("topic", known.topics[slot][word])
    if slot == "weather_wording":
        facts.vote("weather", known.weather_words[word])
    if slot == "feeling":
        facts.vote("sentiment", known.feelings[word])


def _check_words(sentence: Sentence, pattern: Pattern, where: str, known: Index, facts: _Facts) -> None:
    """Compare every word of a matched sentence with what the rest of the story asks for."""
    subject = facts.winner("person") or "third"
    content = sentence.content
    for position, (element, word) in enumerate(zip(pattern.content, content, strict=True)):
        if known.classes[word] == "~subject":
            subject = "first" if word == "i" else "third"
        if element.kind == "verb":
            _check_verb(element, word, subject, where, known, facts)
        elif element.kind in ("pronoun", "name"):
            _check_protagonist(element, word, where, known, facts)
        elif element.kind == "slot":
            _check_slot(element.value, word, where, known, facts)
        elif element.kind == "preposition":
            if word != PREPOSITIONS[content[position + 1]]:
                facts.error("frame", f"{where} has the wrong preposition {word!r}.")
        elif word != element.value:
            _check_fixed_word(element.value, word, where, known, facts)


def _check_verb(element: Element, word: str, subject: str, where: str, known: Index, facts: _Facts) -> None:
    """Tense and agreement of one verb."""
    tense = known.verbs[word][1]
    if tense != facts.winner("tense"):
        facts.error("tense", f"{where} has {word!r} in the {tense} tense.")
    form = verb_forms(element.value)[tense, subject if element.subject == "protagonist" else element.subject]
    if word != form:
        facts.error("agreement", f"{where} has {word!r} where {form!r} belongs.")


def _check_protagonist(element: Element, word: str, where: str, known: Index, facts: _Facts) -> None:
    """One mention of the protagonist, by name or pronoun."""
    person, gender, name = facts.winner("person"), facts.winner("gender"), facts.winner("name")
    named = known.slots["name"].get(word)
    meant = ("third", GENDERS[named]) if named else PRONOUN_MEANING[word]
    detail = f"{where} has {named or word!r} for the protagonist."
    if meant[0] != person:
        facts.error("person", detail)
    elif named and named != name:
        facts.error("name", detail)
    elif meant[1] and meant[1] != gender:
        facts.error("pronoun", detail)
    elif element.kind == "name" and person == "third" and not named:
        facts.error("name", f"{where} has {word!r} where the name belongs.")
    elif element.kind == "pronoun" and (named or word != PRONOUNS[element.value].get(
            person if person == "first" else gender or "female")):
        facts.error("pronoun", detail)


def _check_slot(slot: str, word: str, where: str, known: Index, facts: _Facts) -> None:
    """One word of a slot: it must be of the story's topic and the same whenever it comes back."""
    value = known.slots[slot][word]
    topic = known.topics[slot][word] if slot in known.topics else None
    if topic and topic != facts.winner("topic"):
        facts.error("topic", f"{where} has {word!r}, which belongs to {topic}.")
    elif slot in TIED_SLOTS and value != facts.winner(slot):
        facts.error(slot, f"{where} has {word!r} in place of {facts.winner(slot)!r}.")


def _check_fixed_word(expected: str, word: str, where: str, known: Index, facts: _Facts) -> None:
    """A word that the frame fixes but that stands in another form."""
    if word in known.verbs and expected in known.verbs:
        kind = "tense" if known.verbs[word][1] == "past" else "agreement"
    else:
        kind = "frame"
    facts.error(kind, f"{where} has {word!r} where {expected!r} belongs.")


def _check_small_words(sentence: Sentence, pattern: Pattern, where: str, facts: _Facts) -> None:
    """Articles and commas of a matched sentence."""
    content = iter(sentence.content)
    expected = [element.value if element.kind in ("article", "comma") else next(content)
                for element in pattern.elements]
    for position, element in enumerate(pattern.elements):
        if element.kind == "article" and element.value == "a":
            expected[position] = indefinite(expected[position + 1])
    if [word for word in expected if word != ","] != sentence.words:
        facts.error("article", f"{where} should read {' '.join(expected).replace(' ,', ',')!r}.")
    actual = [token for token in sentence.tokens if token not in ARTICLES]
    if [word for word in expected if word not in ARTICLES] != actual:
        facts.error("punctuation", f"{where} should read {' '.join(expected).replace(' ,', ',')!r}.")


def _check_loose_words(sentence: Sentence, where: str, known: Index, facts: _Facts) -> None:
    """Errors in the words of a sentence without a pattern."""
    for word in sentence.content:
        slot = known.slot_of(word)
        if slot in TIED_SLOTS:
            _check_slot(slot, word, where, known, facts)
        elif word in known.topic_words and known.topic_words[word] != facts.winner("topic"):
            facts.error("topic", f"{where} has {word!r}, which belongs to {known.topic_words[word]}.")
        elif word in PRONOUN_MEANING:
            person, gender = PRONOUN_MEANING[word]
            if person != facts.winner("person"):
                facts.error("person", f"{where} has {word!r}.")
            elif gender and gender != facts.winner("gender"):
                facts.error("pronoun", f"{where} has {word!r}.")
        elif word in known.slots["name"] and known.slots["name"][word] != facts.winner("name"):
            facts.error("name", f"{where} has the name {known.slots['name'][word]!r}.")


def _check_end(sentences: list[Sentence], facts: _Facts) -> None:
    """Whether sentences break off."""
    for number, sentence in enumerate(sentences, start=1):
        if sentence.cut or not sentence.closed:
            facts.error("cut_off", f"Sentence {number} breaks off.")
        if sentence.pattern and not sentence.closed:
            facts.error("punctuation", "The last full stop is missing.")


def _check_plan(sentences: list[Sentence], facts: _Facts) -> None:
    """Whether the sentences follow the plan of a story."""
    first: dict[tuple[str, ...], Sentence] = {}
    for number, sentence in enumerate(sentences, start=1):
        if first.setdefault(tuple(sentence.content), sentence) is not sentence:
            facts.error("doubled_sentence", f"Sentence {number} has been told before.")
    distinct = list(first.values())
    roles = [sentence.role for sentence in distinct if sentence.role]
    unknown = len(distinct) - len(roles)
    found = list(dict.fromkeys(roles))
    plan = max(PLANS.values(), key=lambda roles: (len(set(found) & set(roles)), -len(roles)))
    kept = [role for role in found if role in plan]
    missing = [role for role in plan if role not in kept]
    if len(missing) > unknown:
        facts.error("missing_sentence", f"There is no sentence for: {', '.join(missing)}.")
    if len(kept) < len(roles) or unknown > len(missing):
        facts.error("extra_sentence", f"A story of this plan has {len(plan)} sentences.")
    if kept != sorted(kept, key=plan.index):
        facts.error("order", f"The sentences should be in the order {', '.join(plan)}.")


def _check_story(facts: _Facts) -> None:
    """Whether weather, complication, outcome, topic and feeling fit one another."""
    if "weather" not in facts.votes:
        facts.error("weather", "The weather is not mentioned.")
    elif len(facts.votes["weather"]) > 1:
        facts.error("weather", f"The weather is at once {' and '.join(facts.votes['weather'])}.")
    if len(facts.votes.get("sentiment", ())) > 1:
        facts.error("sentiment", "Outcome and feeling do not fit each other.")
    complication, outcome = facts.winner("complication"), facts.winner("outcome")
    if complication and outcome and outcome.rsplit(" ", 2)[0] != complication:
        facts.error("coherence", "The outcome does not fit the complication.")
    topic = facts.winner("topic")
    for value in (complication, outcome):
        if value and value.split()[0] != topic:
            facts.error("topic", f"Something happens that belongs to {value.split()[0]}.")


def _attributes(sentences: list[Sentence], facts: _Facts) -> dict[str, str]:
    """The attributes that can be read."""
    read: dict[str, str | None] = {name: facts.majority(name) for name in ATTRIBUTES}
    if len(facts.votes.get("sentiment", ())) > 1:
        read["sentiment"] = None
    read["length"] = str(len(sentences)) if str(len(sentences)) in PLANS else None
    return {name: value for name, value in read.items() if value}


def _slots(sentences: list[Sentence], facts: _Facts) -> dict[str, str]:
    """The slots that can be read."""
    slots = {name: value for name in (*WORD_SLOTS, "weather_wording") if (value := facts.winner(name))}
    for sentence in sentences:
        if sentence.pattern:
            slots.setdefault(f"{sentence.role}_frame", str(sentence.pattern.frame + 1))
    return slots
