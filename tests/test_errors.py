"""What a message of a user's mistake is, whatever was given."""

import pickle

import pytest

from latdiff.errors import LONGEST, UserError
from latdiff.pipelines.files import open_checkpoint


def test_a_message_keeps_its_beginning_and_its_advice_whatever_it_quotes():
    error = UserError(f"x is {'9' * 100_000}, must be less; copy it again")
    assert len(str(error)) <= LONGEST
    assert str(error).startswith("x is 9") and str(error).endswith("9, must be less; copy it again")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(UserError("of 9 rows 3 are blank")) == "of 9 rows 3 are blank"


@pytest.mark.parametrize("index", [
    '{"_class_name": ["%s"]}', '{"_class_name": "P", "%s ": ["latdiff", "P"]}', '{"_class_name": "P", "p": ["%s"]}',
    '{"_class_name": "P", "num_inference_steps": "%s"}',
])
def test_what_an_index_names_is_quoted_in_short(tmp_path, index):
    (tmp_path / "model_index.json").write_text(index % ("x" * 20_000))
    with pytest.raises(UserError, match=r"model_index\.json .*xxx.*must be") as raised:
        open_checkpoint(tmp_path)
    assert len(str(raised.value)) < 600
