"""Search-and-Train, from params.yaml to the paper's table."""

from snakemake.utils import min_version

min_version("9.17")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/draw.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/search.smk"
include: "workflow/rules/initialize.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/deploy.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/phases.smk"
include: "workflow/rules/versions.smk"


wildcard_constraints:
    dataset=one_of(PARAMS.datasets),
    architecture=one_of(PARAMS.architectures),
    seed=one_of(PARAMS.seeds),
    supernet=one_of(PARAMS.supernets),
    search=one_of(PARAMS.searches),
    method=one_of(PARAMS.methods),
    exported=one_of({name for key in PARAMS.architectures for name in GRID.exports(key)}),


# On a cluster these run where Snakemake does: they take less time than submitting them.
localrules:
    all,
    initialize,
    report,
    notebook,


rule all:
    default_target: True
    input:
        final_output(),


onstart:
    share_gpus()


onsuccess:
    record_versions()
