"""The last stage: scores become a static site."""

from dataclasses import dataclass

from typing_extensions import override

from tasks.progress import Listener
from tasks.recipe import differing
from tasks.report.about import About
from tasks.report.recipe import FIXED
from tasks.stage import Recipe, Stage


@dataclass(frozen=True, kw_only=True)
class ReportStage(
    Stage, name="report", result="report", folder="reports", version=2, reads=("tokens", "activations", "sae", "scores")
):
    """Scores -> report."""

    about: About
    tokens: str | None = None
    """None: there is no text to be shown."""
    activations: str = ""
    sae: str = ""
    scores: str = ""
    matched: str | None = None
    """A match whose last version is the SAE, whose table says where its latents come from; None: that is not shown."""

    @override
    def recipe(self) -> Recipe:
        """Settings, the scores, and the match where there is one."""
        matched = () if self.matched is None else (self.matched,)
        return Recipe({"report": differing(self.about.settings, FIXED)}, (self.scores, *matched))

    @override
    def run(self, out: str, listener: Listener) -> None:
        """Write the site."""
        from tasks.report.render import render

        render(self.about, self.tokens, self.activations, self.sae, self.scores, out, self.matched)
