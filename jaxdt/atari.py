"""One Atari game as a Gymnasium environment of single grey frames. Loads gymnasium, and ale_py when used."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Int, UInt8

from jaxdt.errors import JaxdtError
from jaxdt.games import GREY_PICTURE, game_of
from jaxdt.resizing import RESIZES, Resize, resize


_FRAMES_A_SECOND = 60
_MOST_FRAMES = 2**24  # of an episode
_OURS = "jaxdt.atari:AtariGame"
_STICKINESS = "repeat_action_probability"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GameSettings:
    """How a game is played: what `env_kwargs` holds, with ALE's names. Checked by `checked_settings`."""

    resize: Resize = "area"
    """By which rule of `jaxdt.resizing` screens become 84 x 84."""
    frameskip: int = 4
    """Frames of one step; the last two are seen, the brighter of each pixel."""
    noop_max: int = 30
    """An episode begins after fewer frames than these in which nothing is done, as many as its seed says."""
    repeat_action_probability: float = 0.0
    """That a frame repeats the frame before's action."""
    full_action_space: bool = False
    """All 18 actions, also those that do nothing in this game."""
    episodic_life: bool = False
    """Whether an episode ends with a life."""
    reward_clipping: bool = False
    """Whether rewards are -1, 0 or 1."""
    max_num_frames_per_episode: int = 108_000
    """After which an episode is cut off: half an hour."""

    @property
    def max_episode_steps(self) -> int:
        return -(-self.max_num_frames_per_episode // self.frameskip)


def _whole(low: int, high: int) -> tuple[str, Callable[[Any], bool]]:
    return f"a whole number from {low} to {high}", lambda value: type(value) is int and low <= value <= high


_BOOL = ("true or false", lambda value: isinstance(value, bool))
_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "resize": (f"one of {', '.join(RESIZES)}", lambda value: isinstance(value, str) and value in RESIZES),
    "frameskip": _whole(1, 1000),
    "noop_max": _whole(0, 1000),
    "repeat_action_probability": ("from 0 to 1", lambda value: type(value) in (int, float) and 0 <= value <= 1),
    "full_action_space": _BOOL,
    "episodic_life": _BOOL,
    "reward_clipping": _BOOL,
    "max_num_frames_per_episode": _whole(1, _MOST_FRAMES),
}


def checked_settings(env_id: str, given: Mapping[str, Any]) -> GameSettings:
    """Raises JaxdtError naming the keyword argument that a game does not take, or not so."""
    for name, value in given.items():
        if name not in _RULES:
            raise JaxdtError(
                f"the game {env_id} takes the keyword arguments {', '.join(_RULES)}; got {name}={value!r:.40} (leave "
                "it out)."
            )
        rule, is_fine = _RULES[name]
        if not is_fine(value):
            raise JaxdtError(f"{name} of the game {env_id} must be {rule}; got {value!r:.40}.")
    return GameSettings(**given)


class AtariGame(gymnasium.Env):
    """Observations are grey frames of 84 x 84 bytes, actions the numbers of ALE's action set.

    - `env_id`: any id that names the game. Whatever the id is, the keyword arguments are GameSettings' and theirs the
      defaults: `-v5`'s sticky actions are `repeat_action_probability=0.25`.
    - `render_mode`: `rgb_array`, to have the screen in colour from `render`.

    Raises JaxdtError for other keyword arguments, and where ale_py is missing.
    """

    def __init__(self, env_id: str, *, render_mode: str | None = None, **settings: Any):
        self.game = game_of(env_id)
        if self.game is None:
            raise JaxdtError(f"an Atari game's id is such as ALE/Pong-v5; got {env_id!r:.80}.")
        self.settings = checked_settings(env_id, settings)
        register_games()
        registered = gymnasium.spec(f"ALE/{self.game}-v5")
        self.rom = registered.kwargs["game"]
        self.spec = dataclasses.replace(
            registered,
            entry_point=_OURS,
            vector_entry_point=None,
            max_episode_steps=self.settings.max_episode_steps,
            kwargs={"env_id": env_id, **settings},
        )
        self.render_mode = render_mode
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": _FRAMES_A_SECOND / self.settings.frameskip}
        self.observation_space = gymnasium.spaces.Box(0, 255, GREY_PICTURE, np.uint8)
        self._seen: Any = self.emulators(1)
        self._shown: Any = self.emulators(1, colour=True) if render_mode == "rgb_array" else None  # plays the same
        self._screen: Any = None
        self.num_actions = int(self._seen.single_action_space.n)
        self.action_space = gymnasium.spaces.Discrete(self.num_actions)

    def emulators(self, count: int, *, colour: bool = False, threads: int = 1) -> Any:
        """ALE's `AtariVectorEnv` of as many games as this one, side by side; its screens are not resized."""
        how = dataclasses.asdict(self.settings)
        del how["resize"]
        height, width = _screen_size(self.rom)
        return _vector_env()(
            self.rom,
            count,
            num_threads=min(count, threads),
            img_height=height,
            img_width=width,
            grayscale=not colour,
            stack_num=1,
            use_fire_reset=False,  # the policy begins the game, as in the original
            **how,
        )

    def seen(self, screens: UInt8[np.ndarray, "b 1 h w"]) -> UInt8[np.ndarray, "b y x"]:
        """What is observed of `emulators`' screens."""
        return resize(screens[:, 0], GREY_PICTURE, self.settings.resize)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        seeds = seeds_for_ale(np.array([self.np_random.integers(2**31) if seed is None else seed]))
        if self._shown is not None:
            self._screen = self._shown.reset(seed=seeds)[0][0, 0]
        screens, _ = self._seen.reset(seed=seeds)
        return self.seen(screens)[0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        # ALE waits for ever for the emulator of an action that there is not.
        if not self.action_space.contains(action):
            raise JaxdtError(
                f"an action of {self.game} must be a whole number from 0 to {self.num_actions - 1}; got {action!r:.40}."
            )
        actions = np.array([action], np.int32)
        if self._shown is not None:
            self._screen = self._shown.step(actions)[0][0, 0]
        screens, rewards, terminated, truncated, _ = self._seen.step(actions)
        return self.seen(screens)[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> Any:
        """The screen in colour, as large as it is."""
        return self._screen

    def close(self) -> None:
        self._seen = self._shown = self._screen = None


def make_game(env_id: str, given: Mapping[str, Any], max_episode_steps: int | None, *, render: bool) -> AtariGame:
    """With a limit in steps, which `given` may hold too as Gymnasium's ids take it."""
    settings = dict(given)
    within = settings.pop("max_episode_steps", None)
    limit = max_episode_steps or (None if within in (None, -1) else within)  # -1 is Gymnasium's word for none
    if limit is not None:
        frameskip = checked_settings(env_id, settings).frameskip
        rule, is_fine = _whole(1, _MOST_FRAMES // frameskip)
        if not is_fine(limit):
            raise JaxdtError(
                f"max_episode_steps of the game {env_id}, of {frameskip} frames each, must be {rule}; got "
                f"{limit!r:.40}."
            )
        settings["max_num_frames_per_episode"] = limit * frameskip
    return AtariGame(env_id, render_mode="rgb_array" if render else None, **settings)


def made_as_registered(spec: Any) -> tuple[str, dict[str, Any]] | None:
    """The id and keyword arguments of the EnvSpec of a game in no wrappers, ale_py's or ours; else None.

    Of ale_py's, what differs from its registered ones. Its sticky actions are kept also where they are the registered
    ones, since whether they were given cannot be told. `max_episode_steps` is there where it is not the id's own.
    """
    if spec.additional_wrappers or spec.entry_point not in (_OURS, "ale_py.env:AtariEnv"):
        return None
    kwargs = {name: value for name, value in spec.kwargs.items() if name != "render_mode"}
    if spec.entry_point == _OURS:
        env_id = kwargs.pop("env_id")
        limit = checked_settings(env_id, kwargs).max_episode_steps
    else:
        register_games()
        registered, env_id = gymnasium.spec(spec.id), spec.id
        usual, limit = {**registered.kwargs, _STICKINESS: 0.0}, registered.max_episode_steps
        kwargs = {name: value for name, value in kwargs.items() if name not in usual or usual[name] != value}
    if spec.max_episode_steps != limit:
        kwargs["max_episode_steps"] = spec.max_episode_steps or -1  # Gymnasium's word for none
    return env_id, kwargs


def register_games() -> None:
    """Makes Gymnasium know the ids; raises JaxdtError where ale_py is missing or too old."""
    _vector_env()


def seeds_for_ale(seeds: Int[np.ndarray, " b"]) -> Int[np.ndarray, " b"]:
    """Which must be below 2**31; each alone decides its episode, whatever the emulator played before."""
    return seeds.astype(np.int64) % 2**31


@lru_cache  # two threads that make emulators must not both switch warnings off, and on again
def _vector_env() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ale_py  # which registers its games
            from ale_py.vector_env import AtariVectorEnv
    except ImportError as error:
        raise JaxdtError("Atari games need ale-py 0.12 or newer; pip install 'jaxdt[atari]'.") from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Warning)  # as its own environments do
    return AtariVectorEnv


@lru_cache
def _screen_size(rom: str) -> tuple[int, int]:
    """Rows and columns: mostly 210 x 160."""
    import ale_py
    from ale_py import roms

    emulator = ale_py.ALEInterface()
    emulator.loadROM(str(roms.get_rom_path(rom)))
    rows, columns = emulator.getScreenDims()
    return rows, columns
