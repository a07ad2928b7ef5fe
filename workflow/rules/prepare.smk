"""Decode a data set once, for all jobs.

OUTPUTS: results/prepare/{dataset}/data.safetensors
"""


rule prepare:
    input:
        code=code("prepare"),
    output:
        **layout.OUTPUTS["prepare"],
    log:
        "results/logs/prepare/{dataset}.log",
    conda:
        "../envs/st.yaml"
    threads: 1
    resources:
        gpu=0,
        gres=None,
        mem_mb=memory("prepare"),
        runtime=runtime("prepare"),
    params:
        job=job("prepare"),
        plugins=PLUGINS,
    message:
        "prepare {wildcards.dataset}"
    shell:
        "python -m st prepare --job {params.job:q} {params.plugins} --data {output.data:q} --log {log:q}"
