"""Train the subnets, on labels and the frozen supernet's knowledge at once.

REQUIRED INPUTS: the prepared data set, initial weights; the supernet, if the objective has a teacher
OUTPUTS: results/train/.../{method}/: model.safetensors, history.csv
"""


rule train:
    input:
        unpack(inputs("train")),
        code=code("train"),
    output:
        **layout.OUTPUTS["train"],
    log:
        "results/logs/train/{dataset}/{architecture}/seed{seed}/{method}.log",
    cache: CACHE
    conda:
        "../envs/st.yaml"
    threads: 1
    resources:
        gpu=GPU,
        gpu_percent=gpu_percent,
        mem_mb=memory("train"),
        runtime=PARAMS.resources.runtime.train,
    params:
        job=job("train"),
        teacher=lambda wildcards, input: option("teacher", input.teacher),
        contents=contents,
        plugins=plugins,
    message:
        "train {wildcards.dataset}/{wildcards.architecture}/seed{wildcards.seed}/{wildcards.method}"
    shell:
        "ST_GPU_PERCENT={resources.gpu_percent}"
        " python -m st train --job {params.job:q} {params.plugins} --data {input.data:q}"
        " --init {input.init:q} {params.teacher} --model {output.model:q}"
        " --history {output.history:q} --threads {threads} --processes {resources.gpu} --log {log:q}"
