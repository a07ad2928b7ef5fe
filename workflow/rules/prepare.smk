"""Decode a data set once, for all jobs.

OUTPUTS: results/prepare/{dataset}/data.safetensors
"""


rule prepare:
    input:
        code=prepare_code,
    output:
        data=grid.DATA,
    log:
        "results/logs/prepare/{dataset}.log",
    conda:
        "../envs/st.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        job=job("prepare", "dataset"),
        plugins=PLUGINS,
    message:
        "prepare {wildcards.dataset}"
    shell:
        "python -m st prepare --job {params.job:q} {params.plugins} --data {output.data:q} --log {log:q}"
