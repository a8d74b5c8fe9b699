"""What DAGs wait for and tell each other of."""

from airflow.sdk import Asset

NEW_PREFERENCES = Asset("new_preferences", uri="reelign://preferences")  # whoever adds labels makes its event
NEW_REWARD_MODEL = Asset("new_reward_model", uri="reelign://reward-model")  # trained, measured and packaged
