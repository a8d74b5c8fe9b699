"""Stage `package`: VideoReward as a Triton model repository; its layout is in components/serving/repository.py."""

from pathlib import Path

from components.contracts import MODEL_REPOSITORY, VIDEO_REWARD
from components.pipeline.stage import Stage, folder_digest, stage_main
from components.reward.model import load_video_reward
from components.serving.repository import write_repository


def package(stage: Stage) -> None:
    """Reads models/video_reward. Writes serving/model_repository.

    Fails with BadInput for a model that does not load. It takes seconds, and a killed run starts anew.
    """
    model = Path(VIDEO_REWARD)
    load_video_reward(model)  # one that cannot score is not packaged
    write_repository(stage.output(MODEL_REPOSITORY), model, stage.params.package)
    stage.say(f"video_reward version {folder_digest(model)}")


if __name__ == "__main__":
    stage_main("package", package)
