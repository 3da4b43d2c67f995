"""The sentence frames and their notation.

A frame is a sentence written as words between spaces, where
    go/P go/s go/p   is a verb whose subject is the protagonist, a singular or a plural,
    NAME NAMEO       the protagonist by name (I and me in the first person),
    HE HIM HIS       a pronoun of the protagonist,
    THEY             the protagonist and the companion,
    COMP             "her sister"; BOTH is "Clara and her sister" or "my sister and I",
    PLACE ATPLACE    "kitchen" and "in the kitchen",
    AOBJ OBJ GVERB   "a tasty pie", "pie" and what is done with it, "bake",
    WADJ WNOUN       an adjective of the weather and its noun; TIME is a part of the day or week,
    FEEL             a feeling,
and WCLAUSE, COMPLICATION and OUTCOME stand for whole clauses. Write "a" for "a" and "an".
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Frame:
    """One sentence frame; `sentiment` is set where the frame's own words fit only that sentiment."""

    text: str
    sentiment: str | None = None


def _frames(neutral: str, positive: str = "", negative: str = "") -> tuple[Frame, ...]:
    """Frames from blocks of lines."""
    blocks = ((neutral, None), (positive, "positive"), (negative, "negative"))
    return tuple(Frame(line.strip(), mood) for block, mood in blocks for line in block.strip().splitlines())


FRAMES: dict[str, tuple[Frame, ...]] = {
    "opening": _frames("""
        on a WADJ TIME , NAME go/P to the PLACE with COMP .
        BOTH spend/p a WADJ TIME ATPLACE .
        it be/s a WADJ TIME , and NAME join/P COMP ATPLACE .
        one WADJ TIME , BOTH meet/p ATPLACE .
        ATPLACE , NAME meet/P COMP on a WADJ TIME .
        COMP follow/s NAMEO to the PLACE on a WADJ TIME .
        WCLAUSE as NAME walk/P to the PLACE with COMP .
        while WCLAUSE , BOTH hurry/p to the PLACE .
        WCLAUSE , and NAME visit/P the PLACE with COMP .
        NAME take/P COMP to the PLACE while WCLAUSE .
        """),
    "goal": _frames("""
        HE want/P to GVERB AOBJ .
        the idea be/s to GVERB AOBJ together .
        HIS only wish be/s to GVERB AOBJ .
        THEY hope/p to GVERB AOBJ .
        there HE start/P to GVERB AOBJ .
        with great care , HE begin/P to GVERB AOBJ .
        COMP promise/s to help HIM GVERB AOBJ .
        to surprise COMP , HE decide/P to GVERB AOBJ .
        together THEY try/p to GVERB AOBJ .
        HE ask/P COMP to help HIM GVERB AOBJ .
        """),
    "complication": _frames("""
        then COMPLICATION .
        but before long , COMPLICATION .
        suddenly COMPLICATION .
        halfway through , COMPLICATION .
        COMPLICATION , much to HIS surprise .
        at the worst moment , COMPLICATION .
        HE be/P almost done when COMPLICATION .
        HE forget/P the WNOUN when COMPLICATION .
        the trouble start/s when COMPLICATION .
        everything go/s well until COMPLICATION .
        """),
    "goal_complication": _frames("""
        HE want/P to GVERB AOBJ , but COMPLICATION .
        while THEY try/p to GVERB AOBJ , COMPLICATION .
        just as HE start/P to GVERB AOBJ , COMPLICATION .
        the idea be/s to GVERB AOBJ , but then COMPLICATION .
        HE ask/P COMP to help HIM GVERB AOBJ , but COMPLICATION .
        as soon as THEY begin/p to GVERB AOBJ , COMPLICATION .
        HIS attempt to GVERB AOBJ go/s well until COMPLICATION .
        forgetting the WNOUN , HE start/P to GVERB AOBJ , but COMPLICATION .
        """),
    "outcome": _frames("""
        in the end , OUTCOME .
        a moment later , OUTCOME .
        """, """
        luckily , OUTCOME .
        fortunately , OUTCOME .
        with a smile , OUTCOME .
        OUTCOME , which save/s the day .
        OUTCOME , and everything be/s fine again .
        OUTCOME just in time .
        with a little luck , OUTCOME .
        """, """
        sadly , OUTCOME .
        unfortunately , OUTCOME .
        worse still , OUTCOME .
        OUTCOME , so THEY give/p up .
        OUTCOME , which ruin/s everything .
        OUTCOME , and nobody can/s help .
        OUTCOME , and nothing can/s be done .
        """),
    "feeling": _frames("""
        NAME feel/P FEEL about the OBJ .
        on the way home , NAME feel/P FEEL .
        NAME leave/P the PLACE feeling FEEL .
        NAME walk/P home in the WNOUN , feeling FEEL .
        FEEL and tired , NAME go/P home with COMP .
        NAME think/P of the OBJ and feel/P FEEL .
        all evening , NAME feel/P FEEL about the OBJ .
        NAME tell/P COMP how FEEL HE feel/P .
        NAME stay/P FEEL for days .
        """),
    "ending": _frames("""
        OUTCOME , and NAME feel/P FEEL about the OBJ .
        OUTCOME , and NAME leave/P the PLACE feeling FEEL .
        in the end , OUTCOME , and NAME be/P FEEL .
        NAME feel/P FEEL because OUTCOME .
        when OUTCOME , NAME feel/P FEEL .
        finally , OUTCOME , and NAME walk/P home in the WNOUN feeling FEEL .
        OUTCOME , and this leave/s NAMEO FEEL .
        OUTCOME , and all evening NAME be/P FEEL about the OBJ .
        """),
}

# Each length has a plan of its own; no plan is another one with a sentence taken away.
PLANS: dict[str, tuple[str, ...]] = {
    "3": ("opening", "goal_complication", "ending"),
    "4": ("opening", "goal", "complication", "ending"),
    "5": ("opening", "goal", "complication", "outcome", "feeling"),
}
