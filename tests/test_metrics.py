"""Figures about lists of texts, on lists whose figures are known."""

import pytest

from latdiff.evaluation import metrics


def test_exact_match_counts_equal_pairs():
    assert metrics.exact_match(["a", "b", "c ", "d"], ["a", "b", "c", "D"]) == 0.5


def test_exact_match_refuses_lists_of_unequal_length():
    with pytest.raises(ValueError):
        metrics.exact_match(["a"], ["a", "b"])


def test_distinct_counts_every_text_once():
    assert metrics.distinct(["a", "a", "b", "c"]) == 0.75
    assert metrics.distinct(["a"] * 4) == 0.25


def test_memorised_is_the_share_found_word_for_word():
    assert metrics.memorised(["a b", "a c", "a b", "x"], iter(["a b", "q"])) == 0.5


def test_ngrams_are_of_lower_case_words():
    assert metrics.ngrams("The cat  sat", 2) == [("the", "cat"), ("cat", "sat")]
    assert metrics.ngrams("one two", 3) == []


def test_four_gram_memorisation():
    known = set(metrics.ngrams("a b c d e", 4))  # abcd, bcde
    assert metrics.four_gram_memorisation(["a b c d x"], known) == 0.5  # abcd of abcd, bcdx
    assert metrics.four_gram_memorisation(["A B C D"], known) == 1
    assert metrics.four_gram_memorisation(["too short"], known) == 0


def test_distinct_ngrams_are_a_share_of_the_pool():
    assert metrics.distinct_ngrams(["a b", "b a"], 1) == 0.5
    assert metrics.distinct_ngrams(["a b", "b a"], 2) == 1
    assert metrics.distinct_ngrams(["a"], 2) == 0


def test_self_bleu_is_of_each_text_against_the_others():
    alike, apart = ["one two three four five"] * 3, ["a b c d e", "f g h i j", "k l m n o"]
    assert metrics.self_bleu(alike) == pytest.approx(100)
    assert metrics.self_bleu(apart) < 10


def test_a_histogram_of_words_counts_every_length_up_to_the_longest():
    assert metrics.word_histogram(["a b c", "", "d e f"]) == [1, 0, 0, 2]


def test_rouge_takes_the_best_of_the_references():
    found = metrics.rouge(["the cat sat"], [["a dog ran", "the cat sat"]])
    assert found == {"rouge1": 1, "rouge2": 1, "rougeL": 1}
    assert metrics.rouge(["sat the cat"], [["the cat sat"]])["rougeL"] == pytest.approx(2 / 3)


def test_diversity_is_the_product_of_unique_shares():
    assert metrics.diversity(["a b c d e"]) == 1
    # twice the same text: half of the n-grams of each order are unique
    assert metrics.diversity(["a b c d e"] * 2) == pytest.approx(0.5**3)
    assert metrics.diversity(["a a a a a"]) == pytest.approx(1 / 4 * 1 / 3 * 1 / 2)


def test_mean_words():
    assert metrics.mean_words(["a b c", "a", ""]) == pytest.approx(4 / 3)


def test_means_are_weighted_by_numbers_of_texts():
    assert metrics.mean_of([{"n": 1, "x": 1.0}, {"n": 3, "x": 0.0}], "x") == 0.25


def test_bleu_is_of_whole_corpora_and_blind_to_case():
    texts = ["the food was very good today", "nothing here was fresh at all"]
    assert metrics.bleu(texts, [[text.upper()] for text in texts]) == pytest.approx(100)
    assert metrics.bleu(texts, [[text] for text in texts[::-1]]) < 10
    half = metrics.bleu(["the food was very bad today"], [["the food was very good today"]])
    # 5/6 words, 3/5 pairs, 2/4 triples, 1/3 runs of four
    assert half == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)


def test_bleu_takes_as_many_references_as_a_text_has():
    texts = ["the food was very good today", "nothing here was fresh at all"]
    assert metrics.bleu(texts, [["something else", texts[0]], [texts[1]]]) == pytest.approx(100)
    assert metrics.bleu(texts, [["something else"], [texts[1]]]) < 90


def test_sari_of_the_example_that_its_authors_give():
    source = "About 95 species are currently accepted."
    references = ["About 95 species are currently known.", "About 95 species are now accepted.",
                  "95 species are now accepted."]
    # as Hugging Face's `evaluate` documents it
    assert metrics.sari(["About 95 you now get in."], [source], [references]) == pytest.approx(26.953601953601954)
    # by hand, one reference: nothing is to be added, so that a copy keeps what it should and deletes nothing
    assert metrics.sari(["A b c d"], ["a b c d"], [["a b c d"]]) == pytest.approx(100)
    # of single words, nothing to keep (1), what is to go is gone (1), what is added is not wanted (0)
    assert metrics.sari(["x"], ["a"], [["b"]]) == pytest.approx(100 * ((1 + 1 + 0) / 3 + 3) / 4)


def test_sari_is_a_mean_over_sentences():
    one, two = (["x"], ["a"], [["b"]]), (["c"], ["c"], [["c"]])
    both = metrics.sari(*(a + b for a, b in zip(one, two, strict=True)))
    assert both == pytest.approx((metrics.sari(*one) + metrics.sari(*two)) / 2)


@pytest.mark.parametrize(
    "value, text, stands",
    [("pub", "A Pub, near", True), ("pub", "a public place", False), ("£20-25", "costs £20-25.", True),
     ("no", "not so", False), ("Café Rouge", "by café rouge", True)],
)
def test_a_value_stands_in_a_text_as_words(value, text, stands):
    assert metrics.holds(text, value) == stands
