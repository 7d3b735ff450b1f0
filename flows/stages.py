"""The stages of a run, made of its configuration: what each is given of the settings.

text -> tokens -> activations -> SAE -> scores -> report        (own activations enter at the second arrow)
"""

from collections.abc import Sequence

from flows.config import PipelineConfig
from flows.rolling.stage import LakeStage
from tasks.harvest.stage import HarvestStage, IngestStage
from tasks.lm.config import ModelConfig
from tasks.report.about import About
from tasks.report.stage import ReportStage
from tasks.score.stage import ScoreStage
from tasks.stage import Stage
from tasks.text.config import TextConfig
from tasks.text.stage import TokenizeStage
from tasks.train.run_settings import RunSettings
from tasks.train.stage import TrainStage


def stages(config: PipelineConfig) -> Sequence[Stage]:
    """The stages in order, which do not know yet where those before them write."""
    return [
        *_sources(config),
        lake_stage(config) if has_lake(config) else train_stage(config),
        score_stage(config),
        report_stage(config),
    ]


def stage_names() -> Sequence[str]:
    """What the stages are called, in order, in a run that begins with text."""
    return [stage.name for stage in stages(PipelineConfig(text=TextConfig(source="any")))]


def train_stage(config: PipelineConfig) -> TrainStage:
    """The stage that trains the SAE."""
    model = _model(config)
    settings = RunSettings(
        sae=config.sae,
        train=config.train,
        hooks=config.roles,
        model=None if model is None else model.name,
        revision=None if model is None else model.revision,
        ray=config.ray,
        shown=config.model_dump(mode="json", exclude={"sae", "train"}),
    )
    return TrainStage(settings=settings)


def has_lake(config: PipelineConfig) -> bool:
    """Whether training rows do not stay, or are trained on window by window."""
    return config.harvest.keep != "all" or config.train.window_tokens is not None


def lake_stage(config: PipelineConfig) -> LakeStage:
    """The stage that trains the SAE where that is so."""
    return LakeStage(settings=train_stage(config).settings, harvest=_harvest_stage(config))


def score_stage(config: PipelineConfig) -> ScoreStage:
    """The stage that scores the SAE."""
    return ScoreStage(settings=config.score, model=_model(config), cluster=config.ray)


def report_stage(config: PipelineConfig) -> ReportStage:
    """The stage that writes the report."""
    about = About(
        settings=config.report,
        source=config.activations.source,
        train_tokens=config.train.tokens,
        shown=config.model_dump(mode="json"),
    )
    return ReportStage(about=about)


def _sources(config: PipelineConfig) -> Sequence[Stage]:
    """What leads to activations."""
    harvest = config.harvest
    if config.activations.source is not None:
        shard_rows, row_group_rows = harvest.shard_tokens, harvest.row_group_rows
        return [IngestStage(settings=config.activations, shard_rows=shard_rows, row_group_rows=row_group_rows)]
    return [
        TokenizeStage(settings=config.text, model=config.model),
        _harvest_stage(config),
    ]


def _harvest_stage(config: PipelineConfig) -> HarvestStage:
    return HarvestStage(
        settings=config.harvest,
        model=config.model,
        cluster=config.ray,
        context_length=config.text.context_length,
        most_tokens=config.text.max_tokens,
    )


def _model(config: PipelineConfig) -> ModelConfig | None:
    """The model whose activations they are; none where they are the user's own."""
    return config.model if config.activations.source is None else None
