"""The stages' functions with all settings in one configuration, of which each is given the parts that it takes."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flows.config import PipelineConfig
from flows.stages import report_stage, score_stage, train_stage
from flows.sweep import run_of
from tasks.progress import Listener
from tasks.report.about import About
from tasks.train.run_settings import RunSettings

if TYPE_CHECKING:
    from tasks.train.sweep.members import Member
    from tasks.train.sweep.ray_sweep import Target


def tokenize(config: PipelineConfig, out: str, listener: Listener) -> None:
    from tasks.text import tokenize

    tokenize.tokenize(config.text, config.model, out, listener)


def harvest(config: PipelineConfig, tokens: str, shards: str, out: str, listener: Listener) -> None:
    from tasks.harvest import ray_harvest

    ray_harvest.harvest(config.harvest, config.model, config.ray, tokens, shards, out, listener)


def ingest(config: PipelineConfig, out: str, listener: Listener) -> None:
    from tasks.harvest.ingest import Cut, ingest
    from tasks.harvest.recipe import own_row_order
    from tasks.harvest.sources import source_identity

    cut = Cut(config.harvest.shard_tokens, config.harvest.row_group_rows)
    order = own_row_order(config.activations, cut.shard_rows, cut.row_group_rows, source_identity(config.activations))
    ingest(config.activations, cut, out, listener, order)


def run_settings(config: PipelineConfig) -> RunSettings:
    return train_stage(config).settings


def train(config: PipelineConfig, activations: str, out: str, listener: Listener, tokens: str | None = None) -> None:
    from tasks.train import ray_train

    ray_train.train(run_settings(config), activations, out, listener, tokens)


def members(config: PipelineConfig) -> "list[Member]":
    from tasks.train.sweep.members import members

    return members(config.sweep, config.sae, config.train)


def targets(config: PipelineConfig, found: "list[Member]", outs: list[str]) -> "list[Target]":
    from tasks.train.sweep.ray_sweep import Target

    pairs = zip(found, outs, strict=True)
    return [Target(member.label, run_settings(run_of(config, member)), out) for member, out in pairs]


def score(config: PipelineConfig, tokens: str | None, activations: str, sae: str, out: str, listener: Listener) -> None:
    reads: dict[str, Any] = {"tokens": tokens, "activations": activations, "sae": sae}
    replace(score_stage(config), hooks=config.roles, **reads).run(out, listener)


def about(config: PipelineConfig) -> About:
    return report_stage(config).about


def render(config: PipelineConfig, tokens: str | None, activations: str, sae: str, scores: str, out: str) -> None:
    from tasks.report.render import render

    render(about(config), tokens, activations, sae, scores, out)
