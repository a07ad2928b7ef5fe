"""Decode a data set once, for all jobs, or compress it into shards beside the file.

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
    threads: readers
    resources:
        gpu=0,
        gres=None,
        mem_mb=memory("prepare"),
        runtime=runtime("prepare"),
    params:
        images=job("prepare"),
        job=prepare_job,
        plugins=plugins,
    message:
        "prepare {wildcards.dataset}"
    shell:
        "python -m st prepare --job {params.job:q} {params.plugins} --data {output.data:q}"
        " --threads {threads} --log {log:q}"
