"""Search: score the supernet's channels and keep the structure of the best.

REQUIRED INPUTS: a trained supernet; for some searches the prepared data set;
for lottery rounds the supernet's early weights
OUTPUTS: results/search/.../{search}/structure.json
"""


rule search:
    input:
        unpack(inputs("search")),
        code=code("search"),
    output:
        **layout.OUTPUTS["search"],
    log:
        "results/logs/search/{dataset}/{architecture}/seed{seed}/{search}.log",
    cache: CACHE
    conda:
        "../envs/st.yaml"
    threads: 1
    resources:
        gpu=search_gpu,
        gpu_percent=gpu_percent,
        gres=search_gres,
        mem_mb=memory("search"),
        runtime=search_runtime,
    params:
        job=job("search"),
        data=lambda wildcards, input: option("data", input.data),
        rewind=lambda wildcards, input: option("rewind", input.rewind),
        contents=contents,
        plugins=plugins,
    message:
        "search {wildcards.dataset}/{wildcards.architecture}/seed{wildcards.seed}/{wildcards.search}"
    shell:
        "ST_GPU_PERCENT={resources.gpu_percent}"
        " python -m st search --job {params.job:q} {params.plugins} --supernet {input.supernet:q}"
        " {params.data} {params.rewind} --structure {output.structure:q} --threads {threads}"
        " --log {log:q}"
