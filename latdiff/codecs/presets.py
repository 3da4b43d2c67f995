"""In which ways does a causal language model write a text from latents, and with which settings?"""

from __future__ import annotations

from typing import Any

from latdiff.errors import UserError, check_whole, nearest

SETTINGS: dict[str, dict[str, Any]] = {
    "sampled": {"top_p": 0.8}, "careful": {"top_p": 0.7, "end_when_likeliest": True}, "greedy": {"greedy": True},
    "beam": {"num_beams": 4},
}
OPTIONS = ("top_p", "num_beams")  # those settings that may be others


def decoding(preset: str = "sampled", **options) -> dict[str, Any]:
    """Settings of a preset with options on top; raises UserError for unknown ones and for values out of range."""
    if preset not in SETTINGS:
        raise UserError(f"no decoding {preset!r}, only {', '.join(SETTINGS)}{nearest(str(preset), SETTINGS)}")
    settings = SETTINGS[preset]
    for name, value in options.items():
        if name not in settings or name not in OPTIONS:
            known = "num_beams with beam, top_p with sampled and careful"
            raise UserError(f"decoding option {name} is set with {preset}, which has no such option; there is {known}")
        if name == "num_beams":
            check_whole(name, value)
        elif not (isinstance(value, (int, float)) and 0 < value <= 1):
            raise UserError(f"top_p is {value}, must be above 0 and at most 1")
    return settings | options
