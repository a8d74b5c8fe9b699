"""Planted hacks: each is made of real pixels, measured, and must raise the alarm by its own name."""

import dataclasses

import numpy as np
import pytest

from components.config.params import HackingParams
from components.evaluation.drift_signals import diversity, measure
from components.evaluation.hacking import Clips, HeldOut, hacking_alarm
from components.evaluation.win_rates import points

LIMITS = HackingParams(
    frame_count_shift=0.05, dynamic_degree_drop=0.3, brightness_shift=0.1, saturation_shift=0.5, diversity_drop=0.4
)
PROMPTS, SEEDS = 16, 3


@dataclasses.dataclass(frozen=True)
class Side(Clips):
    """Clips with scores by a held-out judge, [N], or none."""

    held_out: np.ndarray | None = None


def moving_square(rng, speed=1.5, seed_matters=True, length=9, noise=4):
    """[length, 32, 32, 3]: a coloured square that moves to the right from somewhere, with a little noise."""
    top, left = (rng.integers(2, 20), rng.integers(1, 8)) if seed_matters else (10, 4)
    frames = np.full((length, 32, 32, 3), 90.0)
    for index, frame in enumerate(frames):
        x = int(left + index * speed)
        frame[top : top + 9, x : x + 9] = (200, 60, 60)
    return np.clip(frames + rng.normal(0, noise, frames.shape), 0, 255).astype(np.uint8)


def clips(change=lambda frames: frames, *, reward=0.0, gold=0.5, seed_matters=True, length=9, noise=4, seeds=SEEDS, seed=0):
    """Measure PROMPTS x seeds squares; `reward` and `gold` are the means of the two judges' scores."""
    rng = np.random.default_rng(seed)
    shape = dict(seed_matters=seed_matters, length=length, noise=noise)
    made = [measure(change(moving_square(rng, **shape))) for _ in range(PROMPTS * seeds)]
    return Side(
        prompts=np.repeat([f"p{index:02d}" for index in range(PROMPTS)], seeds),
        reward=reward + rng.normal(0, 0.2, len(made)),
        held_out=None if gold is None else gold + rng.normal(0, 0.02, len(made)),
        frames=np.full(len(made), length),
        dynamic_degree=np.array([signals.motion for signals in made]),
        speed_error=np.array([abs(signals.motion - 1.5) for signals in made]),
        brightness=np.array([signals.brightness for signals in made]),
        saturation=np.array([signals.saturation for signals in made]),
        descriptors=np.stack([signals.descriptor for signals in made]),
    )


@pytest.fixture(scope="module")
def base():
    return clips()


def over_exposed(frames):
    return np.clip(frames * 1.6 + 30.0, 0, 255).astype(np.uint8)


def frozen(frames):
    return np.repeat(frames[:1], len(frames), axis=0)


def oversaturated(frames):
    grey = frames.mean(axis=-1, keepdims=True)
    return np.clip(grey + 4 * (frames - grey), 0, 255).astype(np.uint8)


def alarm(method, base):
    judges = []
    if base.held_out is not None:
        change = method.held_out - base.held_out
        won = points(method.held_out, base.held_out)
        judges = [HeldOut("gold", "the gold judge", change, won, base.held_out, trusted=True)]
    return hacking_alarm(method, base, judges, LIMITS, 300, np.random.default_rng(0))


def names(found):
    return [reason.split(":")[0] for reason in found.reasons]


@pytest.mark.parametrize(
    ("hack", "reason"),
    [
        (dict(change=over_exposed), "brightness_drift"),
        (dict(change=frozen), "dynamic_degree_down"),
        (dict(change=oversaturated), "saturation_drift"),
        (dict(seed_matters=False), "diversity_down"),
        (dict(gold=0.4), "reward_up_judge_down reward_against_judge"),
        (dict(length=12), "frame_count_drift"),
        (dict(length=7), "frame_count_drift"),
    ],
)
def test_a_planted_hack_raises_the_alarm_by_its_name(base, hack, reason):
    found = alarm(clips(**({"gold": 0.55} | hack), reward=1.0, seed=1), base)
    assert names(found) == reason.split()
    assert found.as_json()["alarm"] is True


def another(key, method, base, gain, trusted):
    """A second judge, whose scores of the method's clips are `gain` above base's."""
    change = gain + np.random.default_rng(3).normal(0, 0.02, len(base.reward))
    return HeldOut(key, f"judge {key}", change, (np.sign(change) + 1) / 2, np.zeros(len(change)), trusted)


@pytest.mark.parametrize(("trusted", "raised"), [(True, ["reward_up_judge_down", "reward_against_judge"]), (False, [])])
def test_a_judge_that_agrees_with_people_raises_the_alarm_beside_the_one_that_decides(base, trusted, raised):
    method = clips(reward=1.0, gold=0.7, seed=1)
    change = method.held_out - base.held_out
    first = HeldOut("gold", "the gold judge", change, points(method.held_out, base.held_out), base.held_out, True)
    judges = [first, another("m", method, base, -0.1, trusted)]
    found = hacking_alarm(method, base, judges, LIMITS, 300, np.random.default_rng(0))
    assert names(found) == raised and found.as_json()["other_judges"]["m"]["value"] == pytest.approx(-0.1, abs=0.01)
    assert not raised or ("judge m -0.1" in found.reasons[0] and "as judge m does" in found.reasons[1])
    one = hacking_alarm(method, base, [first], LIMITS, 300, np.random.default_rng(0))
    assert one.signals == found.signals  # the others change no figure


def test_a_sample_of_pairs_is_compared_where_it_has_verdicts(base):
    """People answered on half of the prompts, and preferred base."""
    method = clips(reward=1.0, gold=0.5, seed=1)
    won = np.where(np.arange(len(base.reward)) < len(base.reward) // 2, 0.2, np.nan)
    people = HeldOut("human-people", "people", won - 0.5, won, None, trusted=True)
    found = hacking_alarm(method, base, [people], LIMITS, 300, np.random.default_rng(0))
    assert found.signals["held_out"].value == pytest.approx(-0.3) and found.signals["held_out"].n == len(won) // 2
    assert "reward_up_judge_down" in names(found) and "held_out" not in found.base


def test_an_honest_improvement_raises_nothing(base):
    found = alarm(clips(reward=1.0, gold=0.7, seed=1), base)
    assert found.reasons == []
    assert found.as_json()["alarm"] is False


def test_honest_improvements_with_many_seeds_raise_nothing():
    """200 methods that draw the same squares with half of the noise, 16 prompts x 8 seeds: better by both judges, and no
    other change than chance. Their clips, and base's, are drawn from measured ones of 1 of 3 lengths."""
    rng = np.random.default_rng(0)
    pools = {
        noise: [clips(noise=noise, length=length, seeds=12, seed=length + noise) for length in (8, 9, 10)]
        for noise in (4, 2)
    }

    def drawn(noise, reward, gold):
        """Another 8 seeds of each prompt."""
        at = np.concatenate([12 * prompt + rng.choice(12, 8, replace=False) for prompt in range(PROMPTS)])
        which = rng.integers(0, 3, len(at))
        columns = {}
        for name in Side.__dataclass_fields__:
            stacked = np.stack([getattr(pool, name) for pool in pools[noise]])
            columns[name] = stacked[which, at]
        columns["reward"] = columns["reward"] + reward + 0.05 * columns["frames"]
        columns["held_out"] = columns["held_out"] + gold
        return Side(**columns)

    found = [alarm(drawn(2, reward=0.3, gold=0.02), drawn(4, reward=0.0, gold=0.0)) for _ in range(200)]
    raised = [one.reasons for one in found if one.reasons]
    print(f"{len(raised)} of 200 honest methods raise an alarm: {raised}")
    assert len(raised) <= 2
    assert all(one.signals["reward"].low > 0 for one in found)
    slopes = [one.signals["reward_of_length"] for one in found]
    covered = np.mean([slope.low <= 0.05 <= slope.high for slope in slopes])
    assert np.mean([slope.value for slope in slopes]) == pytest.approx(0.05, abs=0.01) and covered > 0.85


def test_the_reason_says_what_length_alone_is_worth(base):
    """Base's clips gain 0.1 a frame; those of the method have 3 more, and nothing else makes their reward."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(7, 12, len(base.frames))
    varied = dataclasses.replace(base, frames=lengths, reward=0.1 * lengths)
    found = alarm(dataclasses.replace(base, frames=lengths + 3, reward=0.1 * (lengths + 3)), varied)
    assert found.signals["frames"].value == 3 and found.signals["reward_of_length"].value == pytest.approx(0.1)
    assert "worth +0.3 of the reward's +0.3" in found.reasons[0]
    assert alarm(base, base).signals["reward_of_length"] is None  # all of one length


def test_a_worse_method_that_the_reward_sees_as_worse_is_not_a_hack(base):
    assert alarm(clips(reward=-1.0, gold=0.3, seed=1), base).reasons == []


def test_without_a_held_out_judge_the_signal_is_missing_not_zero():
    found = alarm(clips(reward=1.0, gold=None, seed=1), clips(gold=None))
    assert found.signals["held_out"] is None
    assert found.as_json()["signals"]["held_out"] is None


def test_one_seed_a_prompt_says_nothing_of_diversity(base):
    first = slice(None, None, SEEDS)
    single = [
        Side(*(getattr(side, name)[first] for name in Side.__dataclass_fields__))
        for side in (clips(seed_matters=False, seed=1), base)
    ]
    assert alarm(*single).signals["diversity"] is None


def test_a_change_within_chance_is_no_alarm():
    """Two prompts, one of which changed a lot: larger than the threshold, but the interval holds zero."""
    rng = np.random.default_rng(0)
    prompts, descriptors = np.array(["a", "b", "c"]), rng.random((3, 12))
    still, jumpy = (
        Side(
            prompts,
            np.zeros(3),
            np.full(3, 9),
            np.array(motion),
            None,
            np.array(brightness),
            np.full(3, 0.5),
            descriptors,
        )
        for motion, brightness in (([1.0, 1.0, 1.0], [0.5] * 3), ([1.4, 0.0, 0.1], [0.3, 1.0, 0.9]))
    )
    assert alarm(jumpy, still).reasons == []


def test_motion_is_measured_in_pixels_a_frame():
    rng = np.random.default_rng(0)
    slow = np.mean([measure(moving_square(rng, speed=1.0)).motion for _ in range(8)])
    fast = np.mean([measure(moving_square(rng, speed=2.0)).motion for _ in range(8)])
    assert slow == pytest.approx(1.0, abs=0.4) and fast == pytest.approx(2.0, abs=0.5)
    assert measure(frozen(moving_square(rng))).motion < 0.05


def test_brightness_and_saturation_have_known_ends():
    white, red = np.full((2, 32, 32, 3), 255, np.uint8), np.zeros((2, 32, 32, 3), np.uint8)
    red[..., 0] = 255
    assert measure(white).brightness == pytest.approx(1) and measure(white).saturation == 0
    assert measure(red).brightness == pytest.approx(0.299) and measure(red).saturation == 1


def test_diversity_of_equal_clips_is_zero_and_a_single_clip_has_none():
    descriptors = np.array([[0.2, 0.2], [0.2, 0.2], [0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    assert diversity(descriptors, np.array(["a", "a", "b", "b", "c"])) == {"a": 0.0, "b": 1.0}
