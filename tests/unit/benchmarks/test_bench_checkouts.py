"""Another commit beside this one: which, its files, and an interpreter that imports those alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from policyctl.errors import UnsupportedError, UsageError
from policyctl_benchmarks.checkouts import (
    ROOTS,
    Checkout,
    CheckoutError,
    CheckoutTimeError,
    commit_of,
    copy,
    is_changed,
    is_shallow,
    last_release,
    newest_release,
    unpack,
)

HEAD = "c" * 40


@pytest.mark.parametrize(
    ("tags", "newest"),
    [
        ((), None),
        (("v0.9.0", "v0.10.0", "v0.2.0"), "v0.10.0"),
        (("v1.0.0-rc.1", "v0.9.0"), "v1.0.0-rc.1"),
        (("v1.0.0-rc.1", "v1.0.0"), "v1.0.0"),
        (("very-old", "v1", "1.0.0", "vv2.0.0", "v2.0"), None),
    ],
)
def test_the_last_release_is_the_newest_by_semantic_versioning(tags: tuple[str, ...], newest: str | None) -> None:
    """Not by the alphabet, and what is no version is no release."""
    assert newest_release([(tag, "a" * 40) for tag in tags], head=HEAD) == newest


def test_a_release_is_not_compared_with_itself() -> None:
    """On the commit that a tag names, the one before counts."""
    assert newest_release([("v1.0.0", "a" * 40), ("v1.1.0", HEAD)], head=HEAD) == "v1.0.0"
    assert newest_release([("v1.1.0", HEAD)], head=HEAD) is None


def git(root: Path, *words: str) -> str:
    identity = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a"}
    environment = {**os.environ, **identity, "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": os.devnull}
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of one package whose only content is its version; three commits."""
    root = tmp_path / "project"
    for folder in ROOTS:
        (root / folder).mkdir(parents=True)
    (root / "control" / "policyctl").mkdir()
    (root / ".gitignore").write_text("ignored\n")
    git(root, "init", "--quiet", "--initial-branch=main")
    for version in ("1", "2", "3"):
        (root / "control" / "policyctl" / "__init__.py").write_text(f"version = {version}\n")
        git(root, "add", ".")
        git(root, "commit", "--quiet", "-m", version)
    return root


def test_the_last_release_is_a_tag_that_this_commit_descends_from(project: Path) -> None:
    """Annotated or not; a tag of another branch, or of this very commit, is none."""
    assert last_release(project) is None
    git(project, "tag", "v0.1.0", "HEAD~2")
    git(project, "tag", "-a", "v0.2.0", "HEAD~1", "-m", "annotated")
    git(project, "tag", "-a", "v0.3.0", "HEAD", "-m", "this very commit")
    git(project, "checkout", "--quiet", "-b", "other", "HEAD~1")
    git(project, "commit", "--quiet", "--allow-empty", "-m", "elsewhere")
    git(project, "tag", "v9.0.0")
    git(project, "checkout", "--quiet", "main")
    assert last_release(project) == "v0.2.0"
    assert commit_of(project, "v0.2.0") == commit_of(project, "HEAD~1")


def test_what_is_no_commit_is_wrong_usage_and_no_checkout_is_told(project: Path, tmp_path: Path) -> None:
    """A name that looks like an option is a name."""
    for name in ("nobody", "--help", "-n1", "HEAD:control"):
        with pytest.raises(UsageError, match="is no commit"):
            commit_of(project, name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnsupportedError, match="git"):
        last_release(tmp_path / "empty")


def test_a_shallow_clone_is_known_as_one(project: Path, tmp_path: Path) -> None:
    """Its tags may be missing, which is not the same as no release."""
    git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{project}", "shallow")
    assert is_shallow(tmp_path / "shallow")
    assert not is_shallow(project)


def test_a_commit_is_unpacked_as_it_was_and_a_tree_copied_as_it_is(project: Path, tmp_path: Path) -> None:
    """The commit's files, whatever lies around now; and of the tree all that would be committed, and no more."""
    init = Path("control", "policyctl", "__init__.py")
    assert not is_changed(project)
    (project / init).write_text("version = 4\n")
    (project / "new").write_text("new")
    (project / "ignored").write_text("x")
    (project / ".gitignore").unlink()
    git(project, "config", "core.excludesFile", str(project.parent / "excludes"))
    (project.parent / "excludes").write_text("ignored\n")
    assert is_changed(project)
    unpack(project, commit_of(project, "HEAD~1"), tmp_path / "was")
    copy(project, tmp_path / "is")
    assert (tmp_path / "was" / init).read_text() == "version = 2\n"
    assert (tmp_path / "is" / init).read_text() == "version = 4\n"
    assert sorted(p.name for p in (tmp_path / "is").iterdir()) == ["control", "new"]
    assert git(project, "stash", "list") == ""


def test_two_checkouts_import_each_their_own_files(project: Path, tmp_path: Path, monkeypatch) -> None:
    """By an interpreter, so that what ignores PYTHONPATH does too; and what is installed here is there for both."""
    monkeypatch.setenv("PYTHONPATH", str(project / "control"))
    monkeypatch.setenv("POLICYCTL_REPOSITORY", "elsewhere")
    for name in ("HEAD~2", "HEAD~1"):
        checkout = Checkout(name, tmp_path / name, {"POLICYCTL_MINE": "1"})
        unpack(project, commit_of(project, name), checkout.folder)
        checkout.make_interpreter()
        program = "import os, numpy, policyctl; print(policyctl.version, sorted(n for n in os.environ if 'CTL' in n))"
        said = checkout.run([checkout.command[0], "-c", program], limit_s=30)
        assert said == f"{1 if name == 'HEAD~2' else 2} ['POLICYCTL_MINE']\n"
        assert not checkout.build_native(limit_s=30)


def test_an_interpreter_that_imports_other_files_is_an_error(tmp_path: Path) -> None:
    """A checkout without the package would silently measure the installed one."""
    with pytest.raises(CheckoutError, match=r"instead of its own files|No module named 'policyctl'"):
        Checkout("empty", tmp_path / "empty").make_interpreter()


def test_a_program_that_refuses_or_hangs_is_told_with_what_it_said(tmp_path: Path) -> None:
    """The two are told apart: one is a fault, the other may be this machine's."""
    checkout = Checkout("base", tmp_path)
    with pytest.raises(CheckoutError, match=r"base: .* ended with 3: too bad"):
        checkout.run(["sh", "-c", "echo too bad >&2; exit 3"], limit_s=10)
    with pytest.raises(CheckoutTimeError, match="did not end within 1 s"):
        checkout.run(["sleep", "30"], limit_s=1)
