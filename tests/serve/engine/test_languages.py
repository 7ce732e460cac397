"""Which of a few languages a text is in."""

import pytest

from serve.engine.languages import fits


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("हम लोग कल सुबह बाज़ार जाएँगे और सब्ज़ी खरीदेंगे", "hi"),
        ("आम्ही उद्या सकाळी बाजारात जाऊन भाजी विकत घेणार आहोत", "mr"),
        ("सरकारन कहा की ये योजना किसानो केलिए है", "hi"),
        ("हामी भोलि बिहान बजार जान्छौं र तरकारी किन्छौं", "ne"),
    ],
)
def test_a_text_fits_its_own_language_best_also_where_words_are_misheard(text, language):
    found = fits(text, ["hi", "mr", "ne"])
    assert max(found, key=found.get) == language and found[language] > 0.5
    assert sum(found.values()) == pytest.approx(1)


def test_a_text_that_shows_nothing_fits_all_alike():
    assert fits("", ["hi", "mr"]) == {"hi": 0.5, "mr": 0.5}


def test_languages_that_are_unknown_are_left_out_and_one_alone_shows_nothing():
    assert set(fits("आहे", ["hi", "mr", "nonsense"])) == {"hi", "mr"}
    assert fits("आहे", ["mr", "nonsense"]) == {}
