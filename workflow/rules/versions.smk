"""Records of what was made, for other clones (st/core/records.py) and for DVC (st/core/versions.py)."""

from st.config.stated import settle
from st.core import records, versions

if internals.persistence_backend(workflow) != "file":
    raise WorkflowError(
        "--persistence-backend: must be 'file', because records travel with the results as files"
    )

if MAIN:
    try:
        records.unpack()
        settle(GRID)
    except StError as error:
        raise WorkflowError(str(error)) from None


def record_versions():
    """Archive Snakemake's records; if the default table is made, DVC may know that all is."""
    if CACHE:
        records.own_files(os.environ[CACHE_VARIABLE])
    try:
        if internals.is_default_config(workflow) and internals.is_made(workflow, "report"):
            versions.record()  # which looks again, because params.yaml or code may have been edited
        else:
            records.pack()
    except StError as error:
        print(error, file=sys.stderr)
