"""One target per phase: the stages of dvc.yaml."""


localrules:
    phase_prepare,
    phase_pretrain,
    phase_search,
    phase_initialize,
    phase_train,
    phase_evaluate,
    phase_report,


rule phase_prepare:
    input:
        expand(grid.DATA, dataset=PARAMS.datasets),


rule phase_pretrain:
    input:
        over_grid(GRID.trained_supernets),


rule phase_search:
    input:
        over_grid(GRID.structures),


rule phase_initialize:
    input:
        over_grid(GRID.initialized),


rule phase_train:
    input:
        over_grid(GRID.trained),


rule phase_evaluate:
    input:
        over_grid(GRID.measured),


rule phase_report:
    input:
        final_output(),
