"""Stage `package`: VideoReward as a Triton model repository; its layout is in components/serving/repository.py."""

from pathlib import Path

from components.reward.model import load_video_reward
from components.serving.repository import write_repository
from components.stage import Stage, folder_digest, run_stage


def package(stage: Stage) -> None:
    model = Path("models/video_reward")
    load_video_reward(model)  # one that cannot score is not packaged
    write_repository(stage.output("serving/model_repository"), model, stage.params.package)
    stage.say(f"video_reward version {folder_digest(model)}")


if __name__ == "__main__":
    run_stage("package", package)
