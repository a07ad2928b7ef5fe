"""Records of what was made, for DVC and for other clones: see workflow/versions.py."""

import atexit
import importlib.util

_spec = importlib.util.spec_from_file_location(
    "st_versions", os.path.join(workflow.basedir, "workflow", "versions.py")
)
versions = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(versions)

versions.unpack()


def record_versions():
    """Archive Snakemake's records; if the default table is made, DVC may know that all is."""
    if CACHE:
        versions.own_files(os.environ[caching.LOCATION_ENVVAR])
    versions.pack()
    complete = any(
        job.rule.name == "report" and (workflow.dag.finished(job) or not workflow.dag.needrun(job))
        for job in workflow.dag.jobs
    )
    if complete and not workflow.overwrite_configfiles and not workflow.config_settings.config:
        versions.record_with_dvc()


def record_if_nothing_was_to_do():
    """Without a job to run Snakemake has no success to report; but after an edit that no job depends
    on, DVC still has to learn that the results are up to date."""
    executing = workflow.executor_plugin is not None and not workflow.dryrun
    if executing and workflow.is_main_process and workflow.dag is not None:
        if not any(workflow.dag.needrun(job) for job in workflow.dag.jobs):
            record_versions()


atexit.register(record_if_nothing_was_to_do)
