"""Offline episodes: where they come from, how they are kept, how windows are drawn. Never loads jax."""

from jaxdt.data.collecting import collect_episodes
from jaxdt.data.d4rl import normalized_score
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.loading import load_episodes
from jaxdt.data.windows import WindowSampler


__all__ = ["EpisodeStore", "WindowSampler", "collect_episodes", "load_episodes", "normalized_score"]
