import os

import pytest

from jaxdt.files import open_atomically, private_cache


def write_half(path, mode, error):
    with open_atomically(path, mode) as file:
        file.write("half" if mode == "w" else b"half")
        raise error


@pytest.mark.parametrize("mode", ["w", "wb"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_file_whose_writing_fails_never_appears(tmp_path, mode, error):
    with pytest.raises(error):
        write_half(tmp_path / "new" / "file", mode, error)
    assert not list((tmp_path / "new").iterdir())


def test_a_file_whose_writing_fails_leaves_the_older_one(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        write_half(path, "w", RuntimeError)
    assert path.read_text() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with open_atomically(path) as file:
        file.write("nëw")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text(encoding="utf-8") == "nëw"
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


def test_a_new_file_has_the_usual_permissions(tmp_path):
    usual = tmp_path / "usual"
    usual.touch()
    with open_atomically(tmp_path / "ours"):
        pass
    assert (tmp_path / "ours").stat().st_mode == usual.stat().st_mode


def test_the_cache_is_one_that_only_its_user_may_write_to(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = private_cache("programs")
    assert made == tmp_path / "jaxdt" / "programs"
    if os.name != "nt":
        assert made.stat().st_mode & 0o077 == 0
        made.chmod(0o777)
        assert private_cache("programs") is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("in the way")
    assert private_cache("programs") is None


def test_a_cache_in_the_home_directory_is_the_default(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert private_cache("programs") == tmp_path / ".cache" / "jaxdt" / "programs"
