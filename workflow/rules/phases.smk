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
        GRID.made("prepare"),
        GRID.made("draw"),


rule phase_pretrain:
    input:
        GRID.made("pretrain"),


rule phase_search:
    input:
        GRID.made("search"),


rule phase_initialize:
    input:
        GRID.made("initialize"),


rule phase_train:
    input:
        GRID.made("train"),


rule phase_evaluate:
    input:
        GRID.made("evaluate"),


rule phase_report:
    input:
        final_output(),
