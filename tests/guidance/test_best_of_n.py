"""Best of N: the clip that is kept is the one the reward likes best, and N = 1 is plain sampling."""

import pytest
import torch

from components.errors import BadInput
from components.generator.sampler import Job, solve
from components.guidance.best_of_n import best_of_early, best_of_videos, several
from components.reward.scores import Score, Unscored
from tests.generator.small import tiny_generator
from tests.guidance.test_flow_nrg import small_reward

JOBS = [Job("a", "a red circle", 3), Job("b", "a blue circle", 4)]


@pytest.fixture(scope="module")
def generator():
    return tiny_generator()


@pytest.fixture
def sampling(bare_stage):
    return bare_stage.params.sampling.model_copy(update={"steps": 3, "height": 16, "width": 16, "frames": 5})


def test_the_first_of_several_is_the_job_itself():
    many = several(JOBS, 3)
    assert [job.clip for job in many] == ["a"] * 3 + ["b"] * 3
    assert (many[0].seed, many[3].seed) == (3, 4) and len({job.seed for job in many}) == 6
    assert several(JOBS, 2) == [many[0], many[1], many[3], many[4]], "more candidates change none of the first"


@pytest.mark.parametrize("solver", ["euler", "unipc"])
@pytest.mark.parametrize("rank_step", [1, 2, 3])
def test_the_best_early_one_goes_on(generator, sampling, rank_step, solver):
    sampling = sampling.model_copy(update={"solver": solver})
    reward = small_reward(generator.model, frozen=False)
    kept = best_of_early(generator, JOBS, sampling, 4, rank_step, reward, {"TA": 1.0})
    drawn = solve(generator, several(JOBS, 4), sampling).view(2, 4, *kept.shape[1:])
    places = [[torch.allclose(kept[b], drawn[b, k], rtol=1e-3, atol=1e-4) for k in range(4)] for b in range(2)]
    assert all(sum(row) == 1 for row in places), "each is one of the four, drawn as it would be alone"
    if rank_step == 3:
        with torch.no_grad():
            scores = reward(drawn[0], torch.zeros(4), generator.encode_text(["a red circle"] * 4))[:, 1]
        assert places[0][int(scores.argmax())]


def test_a_look_beyond_the_steps_is_named(generator, sampling):
    with pytest.raises(BadInput, match="between 1 and the 3 steps"):
        best_of_early(generator, JOBS, sampling, 2, 4, small_reward(generator.model, False), {"TA": 1.0})


class Judge:
    """A stand-in for VideoReward that likes bright clips, and cannot score one of `lost`."""

    dimensions = ("VQ",)

    def __init__(self, lost=()):
        self.lost = lost

    def score(self, items):
        return [
            Unscored("no head") if n in self.lost else Score({}, {"VQ": float(clip.frames.mean())}, 0.0, "v", "p")
            for n, (clip, _) in enumerate(items)
        ]


def test_the_best_video_is_kept_and_a_failure_is_no_score(generator, sampling):
    kept = best_of_videos(generator, JOBS, sampling, 3, Judge(), {"VQ": 1.0})
    drawn = solve(generator, several(JOBS, 3), sampling)
    light = torch.tensor([float(clip.mean()) for clip in generator.decode(drawn)]).view(2, 3).argmax(1)
    torch.testing.assert_close(kept, drawn.view(2, 3, *kept.shape[1:])[torch.arange(2), light])
    with pytest.raises(BadInput, match="no score: no head"):
        best_of_videos(generator, JOBS, sampling, 3, Judge(lost=(4,)), {"VQ": 1.0})
    with pytest.raises(BadInput, match=r"weights\.TA"):
        best_of_videos(generator, JOBS, sampling, 3, Judge(), {"TA": 1.0})
