"""Assets that schedule and connect the DAGs."""

from airflow.sdk import Asset

NEW_PREFERENCES = Asset("new_preferences", uri="reelign://preferences")  # updated when labels are added
NEW_REWARD_MODEL = Asset("new_reward_model", uri="reelign://reward-model")  # trained, measured and packaged
