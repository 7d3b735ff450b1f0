"""The first stage: a corpus becomes sequences of tokens."""

from dataclasses import dataclass

from typing_extensions import override

from tasks.lm.config import ModelConfig
from tasks.lm.files import model_identity
from tasks.progress import Listener
from tasks.recipe import differing
from tasks.stage import Recipe, Stage, Widths
from tasks.text.config import TextConfig
from tasks.text.corpus import check_corpus, corpus_identity
from tasks.text.recipe import FIXED


@dataclass(frozen=True, kw_only=True)
class TokenizeStage(Stage, name="tokenize", result="tokens", folder="tokens", version=3):
    """Text -> tokens."""

    settings: TextConfig
    model: ModelConfig
    """Whose tokenizer is used."""

    @override
    def recipe(self) -> Recipe:
        """Settings, the corpus' content, and the model's."""
        settings = {"text": differing(self.settings, FIXED, TextConfig.not_in_recipe)}
        return Recipe(settings, (corpus_identity(self.settings), model_identity(self.model)))

    @override
    def check_inputs(self, out: str, widths: Widths) -> Widths:
        """Refuse a corpus without a document, or without the column that is to be read."""
        if not self.finished(out):
            check_corpus(self.settings)
        return widths

    @override
    def run(self, out: str, listener: Listener) -> None:
        """Tokenize."""
        from tasks.text.tokenize import tokenize  # takes seconds to import

        tokenize(self.settings, self.model, out, listener)
