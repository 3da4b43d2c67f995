"""With which settings does a causal language model write a text from latents?"""

from __future__ import annotations

from typing import Any

from latdiff.config.writing import PRESETS
from latdiff.errors import UserError, check_whole, nearest, shown

OPTIONS = ("top_p", "num_beams")  # those settings that may be others


def decoding(preset: str = "sampled", **options) -> dict[str, Any]:
    """Settings of a preset with options on top; raises UserError for unknown ones and for values out of range."""
    if not isinstance(preset, str) or preset not in PRESETS:
        raise UserError(f"no decoding {shown(preset)}, only {', '.join(PRESETS)}{nearest(str(preset), PRESETS)}")
    settings = PRESETS[preset]
    for name, value in options.items():
        if name not in settings or name not in OPTIONS:
            known = "num_beams with beam, top_p with sampled and careful"
            raise UserError(f"decoding option {name} is set with {preset}, which has no such option; there is {known}")
        if name == "num_beams":
            check_whole(name, value)
        elif not (isinstance(value, (int, float)) and 0 < value <= 1):
            raise UserError(f"top_p is {value}, must be above 0 and at most 1")
    return settings | options
