"""What may not be in a bundle: machine paths, names of people and hosts, secrets.

Owns the replacements that the writer makes on its own machine and the scan that finds what is left,
on any machine. A path becomes a mark; a secret is never replaced but refused, because the process
that wrote it has to be mended. Read `pirl.audit.bundle` next.
"""

from __future__ import annotations

import re
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pirl.errors import EvidenceError
from pirl.files import home_folder
from pirl.secrecy import shown_arguments

MIN_SECRET = 6
"""Characters; a shorter secret cannot be told from ordinary text."""

_PATH = re.compile(r"/(?<![\w.>/~+)\]}]/)(?<!&gt;/)[\w.@~-]+(?:/[\w.@~+-]+)+")
_ALLOWED_PATH = re.compile(r"^/(?:dev|proc|sys)/|^/[a-z_.]+\.[A-Z]\w+/\w+$")
"""Kernel interfaces, and full gRPC method names."""

_EMAIL = re.compile(r"\b(?!git@)[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b")

_PATTERNS: Mapping[str, tuple[tuple[str, ...], re.Pattern[str]]] = {
    "Windows path": (("\\",), re.compile(r"\b[A-Za-z]:\\\\?[\w]")),
    "file URL": (("file:///",), re.compile(r"file:///")),
    "e-mail address": (("@",), _EMAIL),
    "access token": (
        ("hf_", "ghp_", "gho_", "ghs_", "glpat-", "xox", "sk-", "github_pat_", "akia", "eyj"),
        re.compile(
            r"\b(?:hf_|ghp_|gho_|ghs_|glpat-|xox[abp]-|sk-)[A-Za-z0-9_-]{16,}|\bgithub_pat_\w{20,}"
            r"|\bAKIA[0-9A-Z]{16}\b|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}"
        ),
    ),
    "private key": (("private key",), re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")),
    "credential": (
        ("token", "secret", "passw", "key", "authorization"),
        re.compile(
            r"(?i)(?<![a-z])(?:token|secret|password|passwd|api[_-]?key|authorization)\b"
            r"[\"']?\s*[:=]\s*(?:bearer\s+)?[\"']?(?=[^\s\"',}<]*\d)[^\s\"',}<]{8,}"
        ),
    ),
    "credential in a URL": (("@",), re.compile(r"://[^\s/:@]+:[^\s/@]+@")),
    # Without a colon or an equals sign between: an option and its value, a call's metadata, a header. Words of
    # lower-case letters only are prose.
    "credential given as an option": (
        ("token", "secret", "passw", "key"),
        re.compile(
            r"(?i:--?(?:[\w.-]*[._-])?(?:token|secret|password|passwd|api[_-]?key)"
            r"|\bpirl-token)[\"',]*\s+[\"']?(?![(<])(?=\S*[^a-z\s\"',.])[^\s\"',}<]{8,}"
        ),
    ),
    "bearer token": (
        ("bearer",),
        re.compile(r"(?i:\bbearer)\s+(?=\S*[^a-z\s\"',.])[A-Za-z0-9._~+/=-]{8,}"),
    ),
}
"""Kind of leak: texts of which one must occur, in lower case, and the pattern. A plain search is
far cheaper than a pattern, and almost every file has none of them."""

_DATA_URI = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """Something that may not be there."""

    kind: str
    line: int
    shown: str
    """Start of the match, cut so that a report of a leak does not leak."""

    def __str__(self) -> str:
        return f"line {self.line}: {self.kind} ({self.shown}...)"


def find_leaks(text: str) -> list[Leak]:
    """Everything in `text` that may not be in a bundle, in order of kind."""
    plain = _DATA_URI.sub("data:", text).replace("\\/", "/")
    return list(_leaks(plain))


def _leaks(text: str) -> Iterator[Leak]:
    lower = text.lower()
    for kind, (needles, pattern) in _PATTERNS.items():
        if any(needle in lower for needle in needles):
            for match in pattern.finditer(text):
                yield _leak(kind, text, match, shown=4)
    for match in _PATH.finditer(text):
        if not _ALLOWED_PATH.match(match.group()):
            yield _leak("absolute path", text, match, shown=12)


def _leak(kind: str, text: str, match: re.Match[str], *, shown: int) -> Leak:
    line = text.count("\n", 0, match.start()) + 1
    return Leak(kind=kind, line=line, shown=match.group()[:shown])


def _mask_path(match: re.Match[str]) -> str:
    path = match.group()
    return path if _ALLOWED_PATH.match(path) else f"<path>/{path.rpartition('/')[2]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Redactor:
    """Replaces what names this machine and refuses what must not be known."""

    folders: tuple[tuple[str, str], ...]
    """(absolute folder, mark), longest folder first."""
    words: tuple[tuple[str, str], ...] = ()
    """(whole word, mark)."""
    secrets: tuple[str, ...] = ()

    @staticmethod
    def for_this_machine(
        repo_root: Path, *, secrets: Sequence[str] = (), folders: Mapping[str, str] | None = None
    ) -> Redactor:
        """A redactor that knows the folders and the name of this machine.

        Args:
            repo_root: the checkout; becomes `<repo>`.
            secrets: texts that must not occur, the runtime's token for example.
            folders: further absolute folders and their marks, assets for example.

        Raises:
            EvidenceError: a secret is too short to be searched for.
        """
        if any(len(secret) < MIN_SECRET for secret in secrets):
            raise EvidenceError(f"a secret needs {MIN_SECRET} characters or more")
        known = {
            sys.prefix: "<venv>",
            sys.base_prefix: "<python>",
            tempfile.gettempdir(): "<tmp>",
            **({str(home): "<home>"} if (home := home_folder()) else {}),
            **(folders or {}),
            str(repo_root): "<repo>",
        }
        both = {str(Path(folder).resolve()): mark for folder, mark in known.items()} | known
        # Outer folders last: <venv> usually lies inside <repo>.
        ordered = sorted(both.items(), key=lambda item: -len(item[0]))
        host = socket.gethostname()
        words = ((host, "<host>"),) if len(host) >= 4 and host != "localhost" else ()
        return Redactor(
            folders=tuple(
                (folder, mark) for folder, mark in ordered if len(Path(folder).parts) > 1
            ),
            words=words,
            secrets=tuple(secrets),
        )

    def clean(self, text: str, *, where: str) -> str:
        """`text` with marks for everything that names this machine or a person.

        A folder that is not known keeps its last part only: `<path>/libEGL.so`.

        Raises:
            EvidenceError: a secret, or something that no mark replaces; it is not shown.
        """
        if any(secret in text for secret in self.secrets):
            raise EvidenceError(f"{where}: a configured secret is in the text; mend what wrote it")
        # Base64 is full of slashes; pictures inside a page are not text.
        parts = re.split(f"({_DATA_URI.pattern})", text)
        parts[::2] = [self._mark(part) for part in parts[::2]]
        text = "".join(parts)
        leaks = find_leaks(text)
        if leaks:
            raise EvidenceError(f"{where} would leak", problems=[str(leak) for leak in leaks])
        return text

    def arguments(self, argv: Sequence[str], *, where: str) -> list[str]:
        """A command for evidence: values of options that are secrets are hidden, folders become marks.

        Raises:
            EvidenceError: as `clean`.
        """
        return [self.clean(argument, where=where) for argument in shown_arguments(argv)]

    def _mark(self, text: str) -> str:
        for folder, mark in self.folders:
            text = re.sub(rf"(?<![\w.-]){re.escape(folder)}(?![\w.-])", mark, text)
        for word, mark in self.words:
            text = re.sub(rf"(?<![\w.-]){re.escape(word)}(?![\w-])", mark, text)
        text = _PATH.sub(_mask_path, text)
        return _EMAIL.sub("<e-mail>", text)
