"""The demo page in a real browser: load it, move a slider, sample, see the text change, fit a head, use it."""

import pytest
from browser import Visitor, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")


@pytest.fixture
def visitor(served):
    one = Visitor(served)
    yield one
    one.quit()


def test_a_slider_changes_the_text_and_a_head_of_ones_own_steers(visitor):
    visitor.slider("positive")
    plain = visitor.sample()
    assert len(plain) == 3 and all(plain)
    assert visitor.move("positive", 16) == 4.0
    steered = visitor.sample()
    assert visitor.texts("ld-plain") == plain
    assert steered != plain
    assert "sentiment=positive" in visitor.box("#drawn .ld-score").text
    assert len(visitor.find("#drawn .ld-moment")) >= 2

    visitor.tab("A head of your own")
    visitor.push(visitor.named("Who tells the story", "button, .gallery-item, td"))
    said = visitor.answer("#fitted", lambda: visitor.click("#fit-go"))
    assert "narrator: I (" in said and "right on held-out texts" in said and "share of the commonest label" in said
    assert visitor.move("I", 4) == 1.0
    visitor.tab("Sample")
    visitor.sample()
    assert "narrator=I" in visitor.box("#drawn .ld-score").text  # the visitor's own come first

    away = [url for url in visitor.requested() if not url.startswith((visitor.driver.current_url, "data:", "blob:"))]
    assert away == []


def test_every_box_can_be_changed(visitor):
    visitor.slider("positive")
    visitor.push(visitor.named("Steps, sampler"))
    visitor.box("#seed input")
    visitor.tab("Edit a text")
    visitor.box("#text textarea")
    boxes = visitor.find("#settings input, #text textarea, #far input")
    assert len(boxes) == 9 and all(one.is_enabled() for one in boxes)
    visitor.tab("Sample")
    visitor.write("#seed", "7")
    first = visitor.sample()
    visitor.write("#seed", "8")
    assert visitor.sample() != first


def test_what_is_wrong_is_said_in_a_sentence_where_the_answer_would_be(visitor):
    visitor.slider("positive")
    visitor.tab("A head of your own")
    visitor.write("#fit-name", "tone")
    visitor.write("#fit-pasted", "text,label\nonly,one\n")
    said = visitor.answer("#fitted", lambda: visitor.click("#fit-go"))
    assert "label" in said and "Traceback" not in said and "/" not in said
    visitor.tab("Edit a text")
    assert "no text to edit" in visitor.answer("#edited", lambda: visitor.click("#edit-go"))
