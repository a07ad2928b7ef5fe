"""Messages for people."""

import logging

import pytest

from st.core import progress


@pytest.mark.parametrize("with_log", [False, True])
def test_long_lists_are_whole_in_the_log_only(tmp_path, capsys, with_log):
    log = tmp_path / "job.log"
    progress.start("prepare x", log if with_log else None)
    progress.say_all("files left out", [f"file{number}" for number in range(5)])
    progress.say_all("others", [])
    told = capsys.readouterr().err
    if with_log:
        assert told.splitlines()[0] == f"prepare x: files left out: 5, all of them in {log}"
        assert "file2" in told and "file3" not in told
        assert all(f"file{number}" in log.read_text() for number in range(5))
    else:
        assert told.splitlines()[0] == "prepare x: files left out: 5" and "file4" in told
    assert "others" not in told
    logging.getLogger("st").handlers.clear()
