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
        wiring.made(GRID, "prepare"),
        wiring.made(GRID, "draw"),


rule phase_pretrain:
    input:
        wiring.made(GRID, "pretrain"),


rule phase_search:
    input:
        wiring.made(GRID, "search"),


rule phase_initialize:
    input:
        wiring.made(GRID, "initialize"),


rule phase_train:
    input:
        wiring.made(GRID, "train"),


rule phase_evaluate:
    input:
        wiring.made(GRID, "evaluate"),


rule phase_report:
    input:
        final_output(),
