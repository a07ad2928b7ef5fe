"""Train the supernets.

REQUIRED INPUTS: the prepared data set; of imported networks the drawing, of given ones the weights
OUTPUTS: results/pretrain/.../{supernet}/: model.safetensors, rewind.safetensors (its early weights), history.csv
"""


rule pretrain:
    input:
        unpack(inputs("pretrain")),
        code=code("pretrain"),
    output:
        **layout.OUTPUTS["pretrain"],
    log:
        "results/logs/pretrain/{dataset}/{architecture}/seed{seed}/{supernet}.log",
    cache: CACHE
    conda:
        "../envs/st.yaml"
    threads: 1
    resources:
        gpu=GPU,
        gpu_percent=gpu_percent,
        mem_mb=memory("pretrain"),
        runtime=PARAMS.resources.runtime.pretrain,
    params:
        job=job("pretrain"),
        drawing=lambda wildcards, input: option("drawing", input.drawing),
        weights=lambda wildcards, input: option("weights", input.weights),
        contents=contents,
        plugins=plugins,
    message:
        "pretrain {wildcards.dataset}/{wildcards.architecture}/seed{wildcards.seed}/{wildcards.supernet}"
    shell:
        "ST_GPU_PERCENT={resources.gpu_percent}"
        " python -m st pretrain --job {params.job:q} {params.plugins} --data {input.data:q}"
        " {params.drawing} {params.weights}"
        " --model {output.model:q} --rewind {output.rewind:q} --history {output.history:q}"
        " --threads {threads} --processes {resources.gpu} --log {log:q}"
