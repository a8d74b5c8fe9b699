"""Answers of a vision-language model on record: a damaged file is begun anew, with one line."""

import pytest

from components.judges.vlm_questions import Answer
from components.judges.vlm_record import Record
from tests.test_state_files import DAMAGES


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_begun_anew(damage, tmp_path, capfd):
    file = tmp_path / "judges" / "answers.sqlite"
    record = Record(file)
    for number in range(200):  # several pages
        record.keep(f"{number:064}", Answer("Yes " * 20, None, None, 1, 1))
    assert len(record.known([f"{0:064}", f"{1:064}", "other"])) == 2
    record.close()
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    again = Record(file)
    assert again.known([f"{0:064}"]) == {}
    again.keep("new", Answer("No", None, None, 1, 1))
    again.close()
    assert [*Record(file).known(["new"])] == ["new"]
    printed = capfd.readouterr().err
    assert printed.count("\n") <= 1 and ("damaged" in printed) == (damage != "emptied"), "an empty file is a new database"
