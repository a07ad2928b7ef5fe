"""Initialize: give a structure its first weights.

REQUIRED INPUTS: a structure; for inherited or rewound weights also its supernet
OUTPUTS: results/initialize/.../{method}/init.safetensors
"""


rule initialize:
    input:
        unpack(inputs("initialize")),
        code=code("initialize"),
    output:
        **layout.OUTPUTS["initialize"],
    log:
        "results/logs/initialize/{dataset}/{architecture}/seed{seed}/{method}.log",
    conda:
        "../envs/st.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        job=job("initialize"),
        source=lambda wildcards, input: option("source", input.source),
        plugins=plugins,
    message:
        "initialize {wildcards.dataset}/{wildcards.architecture}/seed{wildcards.seed}/{wildcards.method}"
    shell:
        "python -m st initialize --job {params.job:q} {params.plugins} --structure {input.structure:q}"
        " {params.source} --init {output.init:q} --log {log:q}"
