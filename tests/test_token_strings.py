import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tasks.errors import ArtifactError
from tasks.storage.objects import open_store
from tasks.token_strings import TokenStrings, load_strings

TEXTS = ["Héllo wörld — naïve", "a 😀 b", "👩‍👩‍👧 日本語 end", "  two  spaces\nand lines", 'don\'t, 3.14 <tags> "q"']


def byte_level() -> Tokenizer:
    """A vocabulary of the 256 bytes and a few words, in which every character beyond ASCII is several tokens."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "w"), ("e", "n"), ("en", "d")]
    vocabulary = {symbol: n for n, symbol in enumerate([*symbols, *("".join(pair) for pair in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def with_byte_fallback() -> Tokenizer:
    """A SentencePiece-like vocabulary: spaces are ▁, and characters that it lacks are <0xNN> tokens."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdenorstw", "▁a"]
    tokenizer = Tokenizer(models.BPE({piece: n for n, piece in enumerate(pieces)}, [("▁", "a")], byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


@pytest.mark.parametrize("text", TEXTS)
def test_byte_level_strings_join_to_the_text(text: str) -> None:
    tokenizer = byte_level()
    strings = TokenStrings(tokenizer).of_sequence(tokenizer.encode(text).ids)
    assert "".join(strings) == text


@pytest.mark.parametrize("text", TEXTS)
def test_no_cut_through_a_text_shows_replacement_characters(text: str) -> None:
    tokenizer = byte_level()
    token_ids = tokenizer.encode(text).ids
    for start in range(len(token_ids)):
        strings = TokenStrings(tokenizer).of_sequence(token_ids[start : start + 5])
        assert "\ufffd" not in "".join(strings)


def test_a_character_of_several_tokens_is_shown_once_at_the_last() -> None:
    tokenizer = byte_level()
    strings = TokenStrings(tokenizer).of_sequence(tokenizer.encode("a😀é b").ids)
    assert strings == ["a", "", "", "", "😀", "", "é", " ", "b"]


def test_leading_spaces_are_kept_and_words_stay_whole() -> None:
    tokenizer = byte_level()
    assert TokenStrings(tokenizer).of_sequence(tokenizer.encode(" wend").ids) == [" w", "end"]


def test_sentencepiece_tokens_keep_their_spaces_and_join_bytes() -> None:
    tokenizer = with_byte_fallback()
    strings = TokenStrings(tokenizer).of_sequence(tokenizer.encode("a b é a").ids)
    assert "".join(strings) == " a b é a"
    assert " a" in strings
    assert "\ufffd" not in "".join(strings)


def test_wordpiece_continuations_have_no_space() -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "play": 2, "##ing": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    assert TokenStrings(tokenizer).of_sequence([1, 2, 3, 2]) == [" a", " play", "ing", " play"]


def test_a_token_of_loose_bytes_is_written_out() -> None:
    tokenizer = byte_level()
    strings = TokenStrings(tokenizer)
    assert [strings.of_token(i) for i in tokenizer.encode("😀").ids] == ["\\xf0", "\\x9f", "\\x98", "\\x80"]
    assert strings.of_token(tokenizer.token_to_id("Ġw")) == " w"


def test_a_damaged_or_missing_tokenizer_is_named(tmp_path) -> None:
    with pytest.raises(ArtifactError, match=r"tokenizer\.json is missing"):
        load_strings(str(tmp_path))
    open_store(str(tmp_path)).put("tokenizer/tokenizer.json", b"{")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json is damaged"):
        load_strings(str(tmp_path))
