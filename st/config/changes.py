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

# What was found of sources whose dates have changed, so that they are not read at every start.
KNOWN = Path(".snakemake/st-sources.json")


def paths(source: str, options: dict[str, Any]) -> list[Path]:
    """The files and folders outside results/ that a source reads."""
    return list(registry.datasets.ask(source, "paths", **options) or [])


def parted(source: str, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Complete options of a source, parted: those that say which images, and those that only say
    where their files are, as its attribute `where` names them. These are none where the source's
    files are not compared.

    Raises StError if the source names an option that it does not have.
    """
    names = registry.datasets.ask(source, "where") if paths(source, options) else ()
    for name in names:
        if name not in options:
            raise StError(f"`where` of the data set '{source}' names '{name}', which is no option")
    what = {name: value for name, value in options.items() if name not in names}
    return what, {name: options[name] for name in names}


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
        # without the source there is nothing to compare
        return known if full in ("", before.get("contents")) else full
    quick = quick_fingerprint(read)
    if not quick or quick == before.get("quick"):
        return known
    if not before:
        return quick
    noted = _noted()
    contents = noted.get(quick)
    if contents is None:
        contents = full_fingerprint(read)
        with suppress(StError):  # a folder that can't be written costs another reading
            write_json(KNOWN, {**noted, quick: contents})
    return known if contents == before.get("contents") else quick


def facts(source: str, options: dict[str, Any]) -> dict[str, str] | None:
    """What prepare notes of a source beside the data: see `fingerprint`."""
    read = paths(source, options)
    if not read:
        return None
    return {"quick": quick_fingerprint(read), "contents": full_fingerprint(read)}


def note(path: Path, source: dict[str, str], job: Job) -> None:
    """Write what a prepared data set says of its source into a file beside it, which goes where
    results go, while the data set stays."""
    write_json(_note(path), {**source, "fingerprint": job.get("fingerprint")})


def _note(path: Path) -> Path:
    return path.with_name("source.json")


def _prepared(path: Path) -> dict[str, Any]:
    """A prepared data set's facts of its source, and its job's fingerprint; what came with results
    where there is none; else empty."""
    try:
        if not path.exists():
            noted = read_json(_note(path))
            return noted if isinstance(noted, dict) else {}
        header = read_header(path, FORMAT)
        return {**(header["source"] or {}), "fingerprint": header["job"].get("fingerprint")}
    except (StError, KeyError, TypeError, AttributeError):
        return {}


def _noted() -> dict[str, str]:
    with suppress(StError):
        found = read_json(KNOWN)
        return found if isinstance(found, dict) else {}
    return {}
