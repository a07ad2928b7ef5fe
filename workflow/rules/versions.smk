"""Records of what was made, for DVC and for other clones: see workflow/versions.py."""

import importlib.util

_spec = importlib.util.spec_from_file_location(
    "st_versions", os.path.join(workflow.basedir, "workflow", "versions.py")
)
versions = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(versions)

versions.unpack()


def record_versions():
    """After a successful run: archive Snakemake's records; if the run made the default table, or
    found it up to date, the results are complete and DVC may know."""
    versions.pack()
    dag = workflow.dag
    complete = any(
        job.rule.name == "report" and (dag.finished(job) or not dag.needrun(job))
        for job in dag.jobs
    )
    if complete and not workflow.overwrite_configfiles and not workflow.config_settings.config:
        versions.record_with_dvc()
