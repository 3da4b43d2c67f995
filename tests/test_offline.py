"""The hub that cannot be reached is noticed at once, and what is cached still opens."""

import sys
import time

import datasets
import huggingface_hub
import pytest
from huggingface_hub import constants

from latdiff.config import load_recipe
from latdiff.data.corpus import DataError, load_corpus
from latdiff.lm import LanguageModelError, load_language_model
from latdiff.offline import not_waiting_for_the_hub


class Session:
    """A client of the hub that raises an error of a kind, or none."""

    def __init__(self, error=None):
        self.error, self.asked = error, []

    def head(self, address, timeout):
        self.asked.append(address)
        if self.error:
            raise type(self.error, (Exception,), {})("no route")


@pytest.fixture
def online(monkeypatch):
    """online(session): the hub is asked by it, and the settings are those of a machine with a network."""

    def begin(session):
        monkeypatch.setattr(huggingface_hub, "get_session", lambda: session)
        for settings in (constants, sys.modules["datasets.config"]):
            monkeypatch.setattr(settings, "HF_HUB_OFFLINE", False)
        return session

    return begin


@pytest.mark.parametrize("error, offline", [
    ("ConnectError", True), ("ConnectTimeout", True), ("ProxyError", True), ("ReadTimeout", False), (None, False)])
def test_libraries_are_offline_meanwhile_where_it_does_not_answer(online, error, offline):
    session = online(Session(error))
    with pytest.raises(ZeroDivisionError), not_waiting_for_the_hub():
        assert constants.is_offline_mode() == datasets.config.HF_HUB_OFFLINE == offline
        raise ZeroDivisionError
    assert not constants.is_offline_mode() and not datasets.config.HF_HUB_OFFLINE
    assert session.asked == [constants.ENDPOINT]
    with not_waiting_for_the_hub(needed=False):
        assert len(session.asked) == 1


def test_it_is_not_asked_where_libraries_are_offline_anyway(online, monkeypatch):
    session = online(Session("ConnectError"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with not_waiting_for_the_hub():
        assert not session.asked


def test_a_data_set_and_a_model_of_the_hub_are_refused_without_a_second_try(online, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nothing listens
    online(Session("ConnectError"))
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)  # as clients do between one try and the next
    with pytest.raises(DataError, match="the hub was queried for it, but the hub cannot be reached"):
        load_corpus(load_recipe("e2e").data, 0)
    with pytest.raises(LanguageModelError, match=r"could not be fetched from the hub \(offline"):
        load_language_model(None, "owner/name")
    assert sum(waited) < 1
