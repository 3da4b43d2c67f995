"""A small world of short English stories, with an oracle that reads them back.

Every story has three to five sentences: one day in some weather, somebody meets a companion at a place,
sets about something, meets with a complication, and comes to an outcome that leaves a feeling. Stories have
six independent attributes with uniform priors (`ATTRIBUTES`: topic, sentiment, tense, person, length and
weather), and everything else is sampled uniformly from lists: names, places, objects, clauses and the frame of
every sentence. `sample` generates stories from a seed. `read` takes any text and says whether it is a story of
this world, what is wrong with it (`ERRORS`) and which attributes and choices it shows. `marginals` gives the
exact probability of every choice, `log_prob` that of a whole story, `prefix_log_prob` that of its first words,
`prefix_posterior` what those say of an attribute, `count_stories` the number of stories, and `compare` measures a set
of texts against them.
"""

from .compare import Comparison, compare
from .grammar import ATTRIBUTES, BOUND, Story, count_stories, marginals, sample
from .likelihood import log_prob
from .oracle import ERRORS, Reading, read
from .prefixes import prefix_log_prob, prefix_posterior

__all__ = ["ATTRIBUTES", "ERRORS", "Comparison", "Reading", "Story", "attributes", "bound", "compare",
           "count_stories", "log_prob", "marginals", "prefix_log_prob", "prefix_posterior", "read", "sample"]

attributes, bound = ATTRIBUTES, BOUND  # the names that `latdiff.worlds.Oracle` asks for
