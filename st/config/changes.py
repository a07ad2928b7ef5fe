"""Whether the files that a data set is read from have changed since they were prepared.

The job of `prepare` names a fingerprint of the source, so that other images are another job, to
Snakemake and to whoever compares. It must be cheap (folders may hold millions of files), and the
same again wherever the contents are the same: copies have other dates, and on a machine that has
only the results there are no images at all. So where the files lie is no part of what they are.
"""

import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from st.core import registry
from st.core.errors import StError
from st.core.files import read_json, write_json
from st.core.job import Job
from st.core.tensors import read_header
from st.data.dataset import FORMAT
from st.data.folder import full_fingerprint, quick_fingerprint

# What was found of sources whose dates have changed, so that they are not read at every start; and
# at which places the prepared images have been seen.
KNOWN = Path(".snakemake/st-sources.json")


def paths(source: str, options: dict[str, Any]) -> list[Path]:
    """The files and folders outside results/ that a source reads."""
    found = registry.datasets.ask(source, "paths", **options) or []
    return [Path(path) for path in ([found] if isinstance(found, str | Path) else found)]


def parted(source: str, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Complete options of a source, parted: those that say which images, and those that only say
    where their files are, as its attribute `where` names them. These are none where the source's
    files are not compared.

    Raises StError if the source names an option that it does not have.
    """
    names = registry.datasets.ask(source, "where") if paths(source, options) else ()
    names = (names,) if isinstance(names, str) else names
    for name in names:
        if name not in options:
            raise StError(f"`where` of the data set '{source}' names '{name}', which is no option")
    what = {name: value for name, value in options.items() if name not in names}
    return what, {name: options[name] for name in names}


def stated(job: Job) -> Job:
    """What the prepared file says of its job: which images they are, not where or when they were
    found. So the same images give the same bytes."""
    return {key: value for key, value in job.items() if key not in ("where", "fingerprint")}


def whole(job: Job) -> dict[str, Any]:
    """The complete options of a job of `prepare`."""
    return {**job["options"], **job.get("where", {})}


@cache
def fingerprint(source: str, options: str, compare: str, prepared: Path) -> str | None:
    """A name for the present contents of a source; None for one without files.

    `options`: as JSON; `compare`: as the key of params.yaml; `prepared`: the prepared data set. By
    `dates`, names, sizes and dates are compared with those that were prepared, and if they differ,
    the contents, which are read once. By `contents` these are read at every start.
    """
    read = paths(source, json.loads(options))
    if not read:
        return None
    before = _prepared(prepared)
    known = before.get("fingerprint")
    if compare == "contents":
        full = full_fingerprint(read)
        if full and full != before.get("contents"):
            return full
        return _seen(read, known) if full else known  # else there is nothing to compare
    quick = quick_fingerprint(read)
    if not quick:
        return known
    if quick == before.get("quick"):
        return _seen(read, known)
    if not before:
        return quick
    contents = _noted().get(quick)
    if contents is None:
        contents = full_fingerprint(read)
        _remember(quick, contents)
    return _seen(read, known) if contents == before.get("contents") else quick


def _seen(read: list[Path], known: str | None) -> str | None:
    """`known`, after it was noted that images at these places are the prepared ones."""
    _remember(_places(read), known)
    return known


def _places(read: list[Path]) -> str:
    return f"places: {json.dumps([str(path) for path in read])}"


def are_those(source: str, options: dict[str, Any], prepared: Path) -> bool:
    """Whether a prepared data set is of a source with these options: the same images, from where it
    was prepared or where they have been seen since."""
    read, before = paths(source, options), _prepared(prepared)
    try:
        what, _ = parted(source, options)
        if read_header(prepared, FORMAT)["job"]["options"] != what:
            return False
        then = paths(source, {**what, **before.get("where", {})})
    except (StError, KeyError, TypeError):
        return False
    key, noted = _places(read), _noted()
    return then == read or (key in noted and noted[key] == before.get("fingerprint"))


def made_by(prepared: Path) -> Job | None:
    """The job that a prepared data set says it was made by, but for where the images lay; None
    where there is none that can be read."""
    if not prepared.exists():
        return None
    try:
        known = _prepared(prepared).get("fingerprint")
        found = {} if known is None else {"fingerprint": known}
        return {**read_header(prepared, FORMAT)["job"], **found}
    except (StError, KeyError, TypeError):
        return None


def is_made(job: Job, prepared: Path) -> bool:
    """Whether the data set that a job of `prepare` is about has been prepared."""
    return made_by(prepared) == {key: value for key, value in job.items() if key != "where"}


def facts(source: str, options: dict[str, Any]) -> dict[str, str] | None:
    """What prepare notes of a source beside the data: see `fingerprint`."""
    read = paths(source, options)
    if not read:
        return None
    return {"quick": quick_fingerprint(read), "contents": full_fingerprint(read)}


def note(path: Path, source: dict[str, str], job: Job) -> None:
    """Write what a prepared data set says of its source into a file beside it, which goes where
    results go, while the data set stays."""
    where = job.get("where", {})
    write_json(_note(path), {**source, "fingerprint": job.get("fingerprint"), "where": where})


def _note(path: Path) -> Path:
    return path.with_name("source.json")


def _prepared(path: Path) -> dict[str, Any]:
    """What was noted of a prepared data set's source, also where only results have come; empty
    where nothing was, or the data set is damaged."""
    try:
        if path.exists():
            read_header(path, FORMAT)
        noted = read_json(_note(path))
    except StError:
        return {}
    return noted if isinstance(noted, dict) else {}


def _remember(key: str, value: str | None) -> None:
    noted = _noted()
    if key not in noted or noted[key] != value:
        with suppress(StError):  # a folder that can't be written costs another reading
            write_json(KNOWN, {**noted, key: value})


def _noted() -> dict[str, Any]:
    with suppress(StError):
        found = read_json(KNOWN)
        return found if isinstance(found, dict) else {}
    return {}
