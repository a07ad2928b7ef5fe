"""Search: score the supernet's channels and keep the structure of the best.

REQUIRED INPUTS: a trained supernet; for some criteria the prepared data set
OUTPUTS: results/search/.../{search}/structure.json
"""


rule search:
    input:
        supernet=search_supernet,
        data=search_data,
        code=search_code,
    output:
        structure=grid.STRUCTURE,
    log:
        "results/logs/search/{dataset}/{architecture}/seed{seed}/{search}.log",
    conda:
        "../envs/st.yaml"
    threads: 1
    resources:
        gpu=search_gpu,
        mem_mb=4000,
        runtime=30,
    params:
        job=job("search", "seed", "search"),
        data=lambda wildcards, input: option("data", input.data),
        plugins=PLUGINS,
    message:
        "search {wildcards.dataset}/{wildcards.architecture}/seed{wildcards.seed}/{wildcards.search}"
    shell:
        "python -m st search --job {params.job:q} {params.plugins} --supernet {input.supernet:q}"
        " {params.data} --structure {output.structure:q} --threads {threads} --log {log:q}"
