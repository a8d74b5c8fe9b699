"""A notifier that appends the name of each failed task, and each late run, to a file."""

from pathlib import Path
from typing import Any

from airflow.sdk.bases.notifier import BaseNotifier


class Told(BaseNotifier):
    def __init__(self, file: str):
        super().__init__()
        self.file = Path(file)

    def notify(self, context: Any) -> None:
        with self.file.open("a") as stream:
            if "deadline" in context:
                stream.write(f"deadline of {context['dag_run']['dag_run_id']}\n")
            else:
                stream.write(f"{context['ti'].task_id} of {context['dag_run'].run_id}\n")
