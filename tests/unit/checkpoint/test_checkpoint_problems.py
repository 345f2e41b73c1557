"""What is wrong with a checkpoint is said with what was recorded and what was found."""

from __future__ import annotations

import pytest

from pirl.checkpoint.manifest import Problem, verify_manifest, write_manifest


def test_a_problem_says_both_values_where_there_are_two():
    assert str(Problem(part="a", kind="missing")) == "a: missing"
    problem = Problem(part="a", kind="altered", recorded="1", found="2")
    assert str(problem) == "a: altered: manifest 1, found 2"


@pytest.mark.parametrize(("content", "kind"), [("12", "truncated"), ("1234", "altered")])
def test_a_shorter_file_is_truncated_and_a_longer_one_altered(tmp_path, content, kind):
    (tmp_path / "a").write_text("123")
    write_manifest(tmp_path)
    (tmp_path / "a").write_text(content)
    (problem,) = verify_manifest(tmp_path)
    assert (problem.part, problem.kind) == ("a", kind)
    assert (problem.recorded, problem.found) == ("3 bytes", f"{len(content)} bytes")
