"""A language model that several kinds of tests read."""

import pytest
from random_models import gpt2


@pytest.fixture(scope="module")
def model():
    return gpt2()
