"""Score clips with a local reward model.

python examples/score_clip.py models/video_reward "a red circle moving up" clip.mp4 other.mp4
"""

import sys

from components.reward.score import RewardModel, Unscored


def main(model: str, prompt: str, *clips: str) -> None:
    reward = RewardModel.load(model)
    for clip, score in zip(clips, reward.score([(clip, prompt) for clip in clips]), strict=True):
        if isinstance(score, Unscored):  # a failure never becomes a number
            print(f"{clip}: no score: {score.reason}")
        else:
            values = "  ".join(f"{name} {value:+.3f}" for name, value in score.normalised.items())
            print(f"{clip}: {values}  Overall {score.overall:+.3f}  (model {score.model_version}, {score.frame_plan})")


if __name__ == "__main__":
    main(*sys.argv[1:])
